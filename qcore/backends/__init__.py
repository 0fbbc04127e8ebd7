"""Backends: what runs packed layers. Attributes load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcore.lazy import lazy_attributes

if TYPE_CHECKING:
    from qcore.backends.base import Backend, Kernel, KernelRequest, Probe, Refusal
    from qcore.backends.choice import BackendChoice, choose, find_backends
    from qcore.backends.memory import is_plain, is_recorded
    from qcore.backends.training import Grid, TrainingKernels, choose_training_kernels

__all__ = [
    "Backend",
    "BackendChoice",
    "Grid",
    "Kernel",
    "KernelRequest",
    "Probe",
    "Refusal",
    "TrainingKernels",
    "choose",
    "choose_training_kernels",
    "find_backends",
    "is_plain",
    "is_recorded",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "Backend": "qcore.backends.base",
        "BackendChoice": "qcore.backends.choice",
        "Grid": "qcore.backends.training",
        "Kernel": "qcore.backends.base",
        "KernelRequest": "qcore.backends.base",
        "Probe": "qcore.backends.base",
        "Refusal": "qcore.backends.base",
        "TrainingKernels": "qcore.backends.training",
        "choose": "qcore.backends.choice",
        "choose_training_kernels": "qcore.backends.training",
        "find_backends": "qcore.backends.choice",
        "is_plain": "qcore.backends.memory",
        "is_recorded": "qcore.backends.memory",
    },
)
