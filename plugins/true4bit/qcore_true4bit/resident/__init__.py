"""Resident training: weights live in 4-bit codes, without a float master. Attributes load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcore.lazy import lazy_attributes

if TYPE_CHECKING:
    from qcore_true4bit.resident.config import ResidentConfig
    from qcore_true4bit.resident.convert import Hardened, harden, make_resident, quantized
    from qcore_true4bit.resident.layers import ResidentConv2d, ResidentLayer, ResidentLinear
    from qcore_true4bit.resident.memory import StateBytes, state_nbytes
    from qcore_true4bit.resident.rates import ResidentRates, set_rates

__all__ = [
    "Hardened",
    "ResidentConfig",
    "ResidentConv2d",
    "ResidentLayer",
    "ResidentLinear",
    "ResidentRates",
    "StateBytes",
    "harden",
    "make_resident",
    "quantized",
    "set_rates",
    "state_nbytes",
]

_HOMES = {
    "Hardened": "convert",
    "ResidentConfig": "config",
    "ResidentConv2d": "layers",
    "ResidentLayer": "layers",
    "ResidentLinear": "layers",
    "ResidentRates": "rates",
    "StateBytes": "memory",
    "harden": "convert",
    "make_resident": "convert",
    "quantized": "convert",
    "set_rates": "rates",
    "state_nbytes": "memory",
}

__getattr__, __dir__ = lazy_attributes(__name__, {name: f"{__name__}.{home}" for name, home in _HOMES.items()})
