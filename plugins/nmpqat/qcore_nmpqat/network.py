"""The layers of a network whose widths are learned, and what they hold together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qcore.nn import QuantLayer
from qcore_nmpqat.quantizers.activation import ActivationQuantizer
from qcore_nmpqat.quantizers.neuron import NeuronQuantizer
from qcore_nmpqat.quantizers.widths import LearnedWidths

if TYPE_CHECKING:
    from torch import nn

__all__ = ["activations", "mean_bits", "neurons", "start_anywhere", "weight_counts"]


def neurons(model: nn.Module) -> dict[str, tuple[QuantLayer, NeuronQuantizer]]:
    """Return each layer with neurons of learned widths, and its weight quantizer, by path."""
    return {
        path: (layer, layer.weight_quantizer)
        for path, layer in model.named_modules()
        if isinstance(layer, QuantLayer) and isinstance(layer.weight_quantizer, NeuronQuantizer)
    }


def activations(model: nn.Module) -> dict[str, ActivationQuantizer]:
    """Return the input quantizers of learned widths by the path of their layer."""
    return {
        path: layer.input_quantizer
        for path, layer in model.named_modules()
        if isinstance(layer, QuantLayer) and isinstance(layer.input_quantizer, ActivationQuantizer)
    }


def weight_counts(layer: QuantLayer) -> int:
    """Return how many weights a neuron of ``layer`` has."""
    return layer.weight[0].numel()


def mean_bits(model: nn.Module) -> Tensor:
    """Return the mean width of a weight, float32 (), with the gradient of ``NeuronQuantizer.bits``.

    Each neuron counts by its fan-in: so it is the size of the codes in bits over the number of weights.
    """
    found = list(neurons(model).values())
    total = torch.stack([quantizer.bits().sum() * weight_counts(layer) for layer, quantizer in found]).sum()
    return total / sum(layer.weight.numel() for layer, _ in found)


@torch.no_grad()
def start_anywhere(model: nn.Module, generator: torch.Generator) -> None:
    """Begin with strengths anywhere between 0 and the first threshold, drawn uniformly."""
    for quantizer in _learned(model):
        steps = quantizer.config.steps
        if steps:
            drawn = torch.rand(quantizer.strength.shape, generator=generator)
            quantizer.put(drawn * steps[0])


def _learned(model: nn.Module) -> Iterator[LearnedWidths]:
    yield from (quantizer for _, quantizer in neurons(model).values())
    yield from activations(model).values()
