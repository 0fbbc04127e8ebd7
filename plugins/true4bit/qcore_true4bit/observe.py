"""What is seen of a network's codes: how many levels it uses, how evenly, and what they would take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from qcore.methods import Progress
from qcore.nn import QuantLayer
from qcore_true4bit.resident import ResidentLayer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qcore.tensor import Encoded

__all__ = ["describe_codes", "layer_codes", "observe_layers", "watch_layers"]


def layer_codes(model: nn.Module) -> Iterator[tuple[str, Encoded]]:
    """Yield path and codes of each layer whose weight is quantized or lives in codes."""
    for path, layer in model.named_modules():
        if isinstance(layer, ResidentLayer):
            yield path, layer.encoded()
        elif isinstance(layer, QuantLayer) and layer.weight_quantizer is not None:
            yield path, layer.coded_weight()


def watch_layers(model: nn.Module, progress: Progress) -> dict[str, Any]:
    """Return :func:`observe_layers` as ``layers``; a Phase calls it after each epoch."""
    return {"layers": observe_layers(model)}


def observe_layers(model: nn.Module) -> dict[str, dict[str, float]]:
    """Return :func:`describe_codes` of each quantized layer, by path."""
    return {path: describe_codes(codes) for path, codes in layer_codes(model)}


def describe_codes(encoded: Encoded) -> dict[str, float]:
    """Return what a layer's codes look like.

    ``levels``: distinct codes; ``top``: the largest magnitude of a code; ``entropy``: of the codes, in bits;
    ``saturation``: share of codes of magnitude ``top``; ``scale``: its mean over slices.
    """
    codes, counts = torch.unique(encoded.codes, return_counts=True)
    shares = counts.double() / counts.sum()
    top = codes.abs().amax()
    return {
        "levels": float(len(codes)),
        "top": float(top),
        "entropy": float(-(shares * shares.log2()).sum()),
        "saturation": float(shares[codes.abs() == top].sum()),
        "scale": _mean(encoded.scale),
    }


def _mean(values: Tensor) -> float:
    return float(values.double().mean())
