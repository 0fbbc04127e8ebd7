"""Model files: strict safetensors. Attributes load on first use; ``inspect`` needs no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcore.lazy import lazy_attributes

if TYPE_CHECKING:
    from qcore.export.atomic import atomic_write
    from qcore.export.format import ModelFile, inspect
    from qcore.export.read import load
    from qcore.export.write import save, to_bytes

__all__ = ["ModelFile", "atomic_write", "inspect", "load", "save", "to_bytes"]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "ModelFile": "qcore.export.format",
        "atomic_write": "qcore.export.atomic",
        "inspect": "qcore.export.format",
        "load": "qcore.export.read",
        "save": "qcore.export.write",
        "to_bytes": "qcore.export.write",
    },
)
