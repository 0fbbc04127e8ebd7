"""The quantized layers of a network, and what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcore.nn import QuantLayer
from qcore_hetero_diffq.quantizers.activation import Activation
from qcore_hetero_diffq.quantizers.sliced import Sliced

if TYPE_CHECKING:
    from torch import nn

    from qcore_hetero_diffq.quantizers.learned import LearnedGrid

__all__ = ["inputs_of", "learned_grids", "weights_of"]


def weights_of(model: nn.Module) -> dict[str, tuple[QuantLayer, Sliced]]:
    """Return each layer with sliced weights, and their quantizer, by path."""
    return {
        path: (layer, layer.weight_quantizer)
        for path, layer in model.named_modules()
        if isinstance(layer, QuantLayer) and isinstance(layer.weight_quantizer, Sliced)
    }


def inputs_of(model: nn.Module) -> dict[str, Activation]:
    """Return the input quantizers by the path of their layer."""
    return {
        path: layer.input_quantizer
        for path, layer in model.named_modules()
        if isinstance(layer, QuantLayer) and isinstance(layer.input_quantizer, Activation)
    }


def learned_grids(model: nn.Module) -> list[LearnedGrid]:
    """Return all of them."""
    return [quantizer for _, quantizer in weights_of(model).values()] + list(inputs_of(model).values())
