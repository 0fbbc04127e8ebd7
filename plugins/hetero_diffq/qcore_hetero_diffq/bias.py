"""Bias correction: outputs of quantized layers keep the mean that they had in float."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from qcore.nn import QuantLayer

__all__ = ["correct_biases", "output_means"]


@torch.no_grad()
def output_means(model: nn.Module, batch: Tensor, paths: set[str]) -> dict[str, Tensor]:
    """Return the mean output of each channel of the layers at ``paths``, float64 (channels,), over ``batch``.

    Where a layer runs several times its last run counts.
    """
    found: dict[str, Tensor] = {}

    def note(path: str) -> Callable[..., None]:
        return lambda _module, _args, output: found.update({path: _means(output)})

    with ExitStack() as stack:
        for path in paths:
            stack.callback(model.get_submodule(path).register_forward_hook(note(path)).remove)
        model(batch)
    return found


@torch.no_grad()
def correct_biases(model: nn.Module, batch: Tensor, wanted: dict[str, Tensor]) -> None:
    """Move the bias of each quantized layer so that its mean outputs over ``batch`` are those ``wanted``, in place.

    One pass: a layer is corrected as it runs, on what the corrected layers before it give. Layers without a bias stay
    as they are, since one would take bytes.

    Args:
        model: quantized, in eval mode.
        batch: inputs.
        wanted: by the path of a layer, from :func:`output_means` of the float network and the same inputs.

    Source: Nagel et al. 2019, arXiv:1906.04721, section 4.2, the empirical form.
    """

    def correct(path: str) -> Callable[..., Tensor]:
        def hook(layer: QuantLayer, _args: Any, output: Tensor) -> Tensor:
            assert layer.bias is not None
            missing = (wanted[path] - _means(output)).to(layer.bias)
            layer.bias.add_(missing)
            return output + missing.reshape(-1, *(1,) * (output.dim() - 2)) if output.dim() == 4 else output + missing

        return hook

    with ExitStack() as stack:
        for path in wanted:
            layer = model.get_submodule(path)
            if isinstance(layer, QuantLayer) and layer.bias is not None:
                stack.callback(layer.register_forward_hook(correct(path)).remove)
        model(batch)


def _means(output: Tensor) -> Tensor:
    """Return the mean of each channel: the second axis of images, else the last."""
    channels = output.transpose(1, -1) if output.dim() == 4 else output
    return channels.reshape(-1, channels.shape[-1]).double().mean(dim=0)
