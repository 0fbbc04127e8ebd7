"""Layers, rules, and the verbs quantize, calibrate, pack and explain. Attributes load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcore.lazy import lazy_attributes

if TYPE_CHECKING:
    from qcore.nn.convert import calibrate, quantize
    from qcore.nn.dropout import Dropout, generator_on, set_generator
    from qcore.nn.layers import QuantConv2d, QuantLayer, QuantLinear
    from qcore.nn.mixture import MixtureOfExperts, load_balance
    from qcore.nn.mlp import MLP, MLPBlock
    from qcore.nn.models import Architecture, architecture_of, build_model
    from qcore.nn.packed import PackedConv2d, PackedLayer, PackedLinear
    from qcore.nn.packing import Explanation, explain, pack
    from qcore.nn.plan import Plan, PlanBuilder, compile_plan
    from qcore.nn.scaling import Rescale, ScaledNetwork, Standardize

_HOMES = {
    "MLP": "mlp",
    "Architecture": "models",
    "Dropout": "dropout",
    "Explanation": "packing",
    "MLPBlock": "mlp",
    "MixtureOfExperts": "mixture",
    "PackedConv2d": "packed",
    "PackedLayer": "packed",
    "PackedLinear": "packed",
    "Plan": "plan",
    "PlanBuilder": "plan",
    "QuantConv2d": "layers",
    "QuantLayer": "layers",
    "QuantLinear": "layers",
    "Rescale": "scaling",
    "ScaledNetwork": "scaling",
    "Standardize": "scaling",
    "architecture_of": "models",
    "build_model": "models",
    "calibrate": "convert",
    "compile_plan": "plan",
    "explain": "packing",
    "generator_on": "dropout",
    "load_balance": "mixture",
    "pack": "packing",
    "quantize": "convert",
    "set_generator": "dropout",
}

__all__ = [
    "MLP",
    "Architecture",
    "Dropout",
    "Explanation",
    "MLPBlock",
    "MixtureOfExperts",
    "PackedConv2d",
    "PackedLayer",
    "PackedLinear",
    "Plan",
    "PlanBuilder",
    "QuantConv2d",
    "QuantLayer",
    "QuantLinear",
    "Rescale",
    "ScaledNetwork",
    "Standardize",
    "architecture_of",
    "build_model",
    "calibrate",
    "compile_plan",
    "explain",
    "generator_on",
    "load_balance",
    "pack",
    "quantize",
    "set_generator",
]

__getattr__, __dir__ = lazy_attributes(__name__, {name: f"{__name__}.{home}" for name, home in _HOMES.items()})
