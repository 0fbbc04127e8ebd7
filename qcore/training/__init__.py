"""Training: the one loop over a method's phases, on lightning-fabric. Attributes load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcore.lazy import lazy_attributes

if TYPE_CHECKING:
    from qcore.training.data import FoldTensors, as_floats
    from qcore.training.devices import make_fabric
    from qcore.training.evaluate import outputs
    from qcore.training.history import History
    from qcore.training.loop import fit

__all__ = ["FoldTensors", "History", "as_floats", "fit", "make_fabric", "outputs"]

_HOMES = {
    "FoldTensors": "data",
    "History": "history",
    "as_floats": "data",
    "fit": "loop",
    "make_fabric": "devices",
    "outputs": "evaluate",
}

__getattr__, __dir__ = lazy_attributes(__name__, {name: f"{__name__}.{home}" for name, home in _HOMES.items()})
