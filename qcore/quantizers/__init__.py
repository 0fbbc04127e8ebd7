"""Quantizers: modules that make tensors low-bit. Attributes load on first use; configs are torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcore.lazy import lazy_attributes

if TYPE_CHECKING:
    from qcore.quantizers.base import Quantizer, check_finite, check_later, checks_together, straight_through
    from qcore.quantizers.config import QuantizerConfig
    from qcore.quantizers.learned import learned_scale, straight_through_inside
    from qcore.quantizers.make import QuantizerRef, make_quantizer, parse_reference

__all__ = [
    "Quantizer",
    "QuantizerConfig",
    "QuantizerRef",
    "check_finite",
    "check_later",
    "checks_together",
    "learned_scale",
    "make_quantizer",
    "parse_reference",
    "straight_through",
    "straight_through_inside",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "Quantizer": "qcore.quantizers.base",
        "QuantizerConfig": "qcore.quantizers.config",
        "QuantizerRef": "qcore.quantizers.make",
        "check_finite": "qcore.quantizers.base",
        "check_later": "qcore.quantizers.base",
        "checks_together": "qcore.quantizers.base",
        "learned_scale": "qcore.quantizers.learned",
        "make_quantizer": "qcore.quantizers.make",
        "parse_reference": "qcore.quantizers.make",
        "straight_through": "qcore.quantizers.base",
        "straight_through_inside": "qcore.quantizers.learned",
    },
)
