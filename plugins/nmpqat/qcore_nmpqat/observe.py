"""What is seen of a network's widths: after each epoch, and at the end."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qcore_nmpqat.network import activations, mean_bits, neurons

if TYPE_CHECKING:
    from torch import nn

    from qcore.methods import Progress
    from qcore_nmpqat.quantizers.widths import LearnedWidths

__all__ = ["Watch", "describe", "observe_widths"]

DIGITS = 3
"""Significant digits of a demand in the history."""


@dataclass(frozen=True)
class Watch:
    """A Phase's ``after_epoch``: what :func:`describe` tells of weights and activations, by layer.

    Attributes:
        epochs: of the phase; after the last one each neuron's width and demand are told too.
    """

    epochs: int

    def __call__(self, model: nn.Module, progress: Progress) -> dict[str, Any]:
        """Return ``weights`` and ``activations`` by layer, ``bits``, the mean width of a weight, and its ``price``."""
        last = progress.epoch + 1 >= self.epochs
        found = {path: quantizer for path, (_, quantizer) in neurons(model).items()}
        return {
            "bits": float(mean_bits(model)),
            "price": max(float(quantizer.price) for quantizer in found.values()),
            "weights": {path: describe(quantizer, last=last) for path, quantizer in found.items()},
            "activations": {path: describe(q, last=last) for path, q in activations(model).items()},
        }


def describe(quantizer: LearnedWidths, *, last: bool = False) -> dict[str, Any]:
    """Return what a layer's widths look like, as JSON data.

    ``counts``: neurons of each width; ``bits``: their mean width; ``demand``: their mean demand by width; and with
    ``last`` the ``widths`` and ``demands`` of all neurons.
    """
    widths = quantizer.widths()
    present = [width for width in quantizer.config.widths if bool((widths == width).any())]
    told: dict[str, Any] = {
        "counts": {str(width): int((widths == width).sum()) for width in quantizer.config.widths},
        "bits": float(widths.double().mean()),
        "demand": {str(width): _short(float(quantizer.demand[widths == width].mean())) for width in present},
    }
    if last:
        told |= {"widths": widths.tolist(), "demands": [_short(value) for value in quantizer.demand.tolist()]}
    return told


def observe_widths(model: nn.Module) -> dict[str, float]:
    """Return what claims need to know of ``model``; nothing if no layer has neurons of widths of their own.

    ``neuron_bits``: mean width of a neuron; ``weight_bits``: of a weight; ``at_lowest``: share of the neurons at the
    lowest width; ``activation_bits``: mean width of a quantized activation, if there are any.
    """
    found = [quantizer for _, quantizer in neurons(model).values()]
    if not found:
        return {}
    inputs = list(activations(model).values())
    lowest = [quantizer.widths() == quantizer.config.widths[0] for quantizer in found]
    told = {
        "neuron_bits": _mean(quantizer.widths() for quantizer in found),
        "weight_bits": float(mean_bits(model)),
        "at_lowest": _mean(lowest),
    }
    return told | ({"activation_bits": _mean(quantizer.widths() for quantizer in inputs)} if inputs else {})


def _mean(parts: Iterable[Tensor] | Sequence[Tensor]) -> float:
    return float(torch.cat(list(parts)).double().mean())


def _short(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")
