"""BitNet for qcore: ternary and 1-bit weights, 8-bit activations, and the recipe that trains them.

This module is torch-free: it says what the plugin offers, and the core imports the rest on first use.
"""

from __future__ import annotations

from qcore.hookspecs import hookimpl
from qcore.registry import MethodSpec, QuantizerSpec

__all__ = ["qcore_methods", "qcore_quantizers"]

__version__ = "0.1.0"

_BITNET = "Wang et al. 2023, arXiv:2310.11453"
_B158 = "Ma et al. 2024, arXiv:2402.17764"
_GRANULARITY = ("tensor", "row", "group")


@hookimpl
def qcore_quantizers() -> list[QuantizerSpec]:
    """Return the three quantizers."""
    return [
        QuantizerSpec(
            name="ternary",
            target="qcore_bitnet.ternary:Ternary",
            summary="weights -1, 0, +1 times their mean magnitude (BitNet b1.58)",
            reference=_B158,
            config="qcore_bitnet.config:TernaryConfig",
            bits=(1.6,),
            granularity=_GRANULARITY,
        ),
        QuantizerSpec(
            name="binary",
            target="qcore_bitnet.binary:Binary",
            summary="weights -1, +1 around their mean, times their mean magnitude (BitNet)",
            reference=_BITNET,
            config="qcore_bitnet.config:BinaryConfig",
            bits=(1.0,),
            granularity=_GRANULARITY,
        ),
        QuantizerSpec(
            name="absmax",
            target="qcore_bitnet.activation:Absmax",
            summary="8-bit activations, scaled by the largest magnitude of each token",
            reference=_B158,
            config="qcore_bitnet.config:AbsmaxConfig",
            bits=(8.0,),
            granularity=("token",),
            tensors=("input",),
        ),
    ]


@hookimpl
def qcore_methods() -> list[MethodSpec]:
    """Return the method."""
    return [
        MethodSpec(
            name="bitnet",
            target="qcore_bitnet.method:BitNet",
            summary="ternary and binary networks trained in two stages, against float, int8 and 2-bit PTQ",
            reference=_B158,
            config="qcore_bitnet.config:BitNetConfig",
        )
    ]
