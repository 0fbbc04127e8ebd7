"""Backends: what runs packed layers. Attributes load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcore.lazy import lazy_attributes

if TYPE_CHECKING:
    from qcore.backends.base import Backend, Kernel, KernelRequest, Probe, Refusal
    from qcore.backends.choice import BackendChoice, choose, find_backends

__all__ = ["Backend", "BackendChoice", "Kernel", "KernelRequest", "Probe", "Refusal", "choose", "find_backends"]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "Backend": "qcore.backends.base",
        "BackendChoice": "qcore.backends.choice",
        "Kernel": "qcore.backends.base",
        "KernelRequest": "qcore.backends.base",
        "Probe": "qcore.backends.base",
        "Refusal": "qcore.backends.base",
        "choose": "qcore.backends.choice",
        "find_backends": "qcore.backends.choice",
    },
)
