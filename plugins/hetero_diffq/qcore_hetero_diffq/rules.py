"""Which layers are quantized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ["layer_rules"]


def layer_rules(model: nn.Module, weight: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return rules for all linear layers and convolutions; what enters the first stays float."""
    layers = {path: type(module) for path, module in model.named_modules() if type(module) in (nn.Linear, nn.Conv2d)}
    first, *rest = layers
    kinds = sorted({layers[path].__name__ for path in rest})
    return {first: weight, **{f"type:{kind}": {"weight": weight, "input": inputs} for kind in kinds}}
