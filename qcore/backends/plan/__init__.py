"""Plans as data: the steps that a backend may compile into one call. Attributes load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcore.lazy import lazy_attributes

if TYPE_CHECKING:
    from qcore.backends.plan.activations import Limit, Relu
    from qcore.backends.plan.base import Program, Shape, Step, Value
    from qcore.backends.plan.builder import Builder
    from qcore.backends.plan.layers import (
        BatchNorm,
        Convolution,
        Flatten,
        LayerNorm,
        Linear,
        MaxPool,
        PackedStep,
        Rescaling,
        SpatialMean,
        Standardization,
    )
    from qcore.backends.plan.residual import Add
    from qcore.backends.plan.routing import (
        Choose,
        Constant,
        Disagreement,
        Experts,
        MaskedCopies,
        Normalise,
        PassMean,
        Softmax,
        Tilt,
    )

__all__ = [
    "Add",
    "BatchNorm",
    "Builder",
    "Choose",
    "Constant",
    "Convolution",
    "Disagreement",
    "Experts",
    "Flatten",
    "LayerNorm",
    "Limit",
    "Linear",
    "MaskedCopies",
    "MaxPool",
    "Normalise",
    "PackedStep",
    "PassMean",
    "Program",
    "Relu",
    "Rescaling",
    "Shape",
    "Softmax",
    "SpatialMean",
    "Standardization",
    "Step",
    "Tilt",
    "Value",
]

_HOMES = (
    {"Add": "residual", "Builder": "builder", "Limit": "activations", "Relu": "activations"}
    | dict.fromkeys(("Program", "Shape", "Step", "Value"), "base")
    | dict.fromkeys(
        ("Choose", "Constant", "Disagreement", "Experts", "MaskedCopies", "Normalise", "PassMean", "Softmax", "Tilt"),
        "routing",
    )
)

__getattr__, __dir__ = lazy_attributes(__name__, {name: f"{__name__}.{_HOMES.get(name, 'layers')}" for name in __all__})
