"""Routers: modules that assign samples to experts. Attributes load on first use; configs are torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcore.lazy import lazy_attributes

if TYPE_CHECKING:
    from qcore.routers.base import Router, Routing
    from qcore.routers.config import RouterConfig

__all__ = ["Router", "RouterConfig", "Routing"]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {"Router": "qcore.routers.base", "RouterConfig": "qcore.routers.config", "Routing": "qcore.routers.base"},
)
