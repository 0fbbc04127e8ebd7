"""Which quantizers the arms use, what the arms are called, and the rules that put the quantizers in place."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from qcore.quantizers import make_quantizer, parse_reference
from qcore_curiosity_moe.config import Reference

if TYPE_CHECKING:
    from qcore.registry import Registry

__all__ = ["STANDARD", "contenders", "expert_bits", "expert_name", "mixture_rules", "single_rules"]

STANDARD: dict[str, Reference] = {
    "ternary": "bitnet/ternary",
    "int1": "core/int(bits=1)",
    "int2": "core/int(bits=2, scale='percentile', percentile=75.0)",
    "int4": "core/int(bits=4)",
    "int8": "core/int(bits=8)",
}
"""The experts that stand alone in every run.

Two bits are the codes -1, 0, 1: clipped at the largest weight nearly all of them would be 0. The 75 % quantile of the
magnitudes is within 4 % of the least squared error for Gaussian weights, and a tenth of the work of searching it.
"""

TRUNK: Reference = "core/int(bits=8)"


def contenders(experts: Iterable[Reference]) -> dict[str, Reference]:
    """Return the experts that stand alone by arm name: the standard ones, and those of ``experts`` besides."""
    return STANDARD | {expert_name(expert): expert for expert in experts}


def expert_name(expert: Reference) -> str:
    """Return the arm's name of an expert that stands alone, such as ``int4`` or ``nmpqat_learned_bits_3``."""
    name, options = _parts(expert)
    standard = next((key for key, value in STANDARD.items() if _parts(value) == (name, options)), None)
    if standard is not None:
        return standard
    words = [name.removeprefix("core/"), *(f"{key}_{value}" for key, value in sorted(options.items()))]
    return re.sub(r"[^a-z0-9]+", "_", "_".join(words).lower()).strip("_")


def expert_bits(experts: Iterable[Reference], registry: Registry | None = None) -> tuple[float, ...]:
    """Return the width of each expert's weights as its quantizer states it, mean over slices."""
    return tuple(float(make_quantizer(expert, registry).bits().mean()) for expert in experts)


def single_rules(expert: Reference, inputs: Reference | None) -> dict[str, Any]:
    """Return rules for ``core/mlp``: hidden layers quantized, the head float."""
    return {"head": None, "type:Linear": {"weight": expert, "input": inputs}}


def mixture_rules(experts: Iterable[Reference], inputs: Reference | None, *, trunk: bool) -> dict[str, Any]:
    """Return rules for ``curiosity_moe/mixture``: each expert by its own quantizer, heads and router float."""
    rules: dict[str, Any] = {"moe.experts.*.head": None}
    if trunk:
        rules["moe.trunk.*"] = {"weight": TRUNK, "input": inputs}
    for index, expert in enumerate(experts):
        rules[f"moe.experts.{index}.*"] = {"weight": expert, "input": inputs}
    return rules


def _parts(expert: Reference) -> tuple[str, dict[str, Any]]:
    if isinstance(expert, str):
        return parse_reference(expert)
    options = dict(expert)
    return str(options.pop("quantizer", "")), options
