"""Which layers are quantized."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from qcore.errors import UsageError

__all__ = ["layer_rules"]


def layer_rules(model: nn.Module, weight: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return rules for all linear layers and convolutions; what enters the first stays float.

    Raises:
        UsageError: there is none.
    """
    layers = {path: type(module) for path, module in model.named_modules() if type(module) in (nn.Linear, nn.Conv2d)}
    if not layers:
        raise UsageError("this network has no linear layer and no convolution, so nothing to quantize")
    first, *rest = layers
    kinds = sorted({layers[path].__name__ for path in rest})
    return {first: weight, **{f"type:{kind}": {"weight": weight, "input": inputs} for kind in kinds}}
