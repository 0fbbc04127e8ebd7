"""``make_resident``: from float layers to codes. ``harden``: back to float layers that hold the codes' values."""

from __future__ import annotations

import copy
from collections import Counter
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from qcore.errors import ConfigError
from qcore.nn.convert import quantize, replace_modules
from qcore.nn.init import skip_init
from qcore.nn.layers import QuantLayer, is_quantizable
from qcore.quantizers.base import check_finite
from qcore.registry import Registry
from qcore_true4bit.quantizers.tanh import TanhQuantizer
from qcore_true4bit.resident.config import ResidentConfig
from qcore_true4bit.resident.layers import ResidentConv2d, ResidentLayer, ResidentLinear

__all__ = ["Hardened", "harden", "make_resident", "quantized"]


def make_resident(
    model: nn.Module, config: ResidentConfig, generator: torch.Generator, *, inplace: bool = False
) -> nn.Module:
    """Return ``model`` with every ``nn.Linear`` and ``nn.Conv2d``, first and last included, replaced by a resident one.

    Args:
        model: any module; it is left alone unless ``inplace``.
        config: how weights are held and updated.
        generator: what ``config.start`` of ``stochastic`` draws from.
        inplace: change ``model`` itself, to save memory.

    Raises:
        ConfigError: there is no such layer, or a weight serves in several places, which resident layers cannot.
        QuantizationError: a weight holds NaN or infinity.
    """
    model = model if inplace else copy.deepcopy(model)
    found = {path: module for path, module in model.named_modules(remove_duplicate=False) if is_quantizable(module)}
    if not found:
        raise ConfigError("the model has no float Linear or Conv2d layer to make resident")
    _refuse_sharing(model, found)
    layers = {path: _resident(module, path, config, generator) for path, module in found.items()}
    return replace_modules(model, layers)


def _resident(layer: nn.Module, path: str, config: ResidentConfig, generator: torch.Generator) -> nn.Module:
    name = f"{path}.weight" if path else "weight"
    check_finite(cast(Tensor, layer.weight), name)
    made: ResidentLayer
    if isinstance(layer, nn.Linear):
        made = ResidentLinear(layer, config, generator)
    else:
        made = ResidentConv2d(cast(nn.Conv2d, layer), config, generator)
    made.tensor_name = name
    return made


def _refuse_sharing(model: nn.Module, found: dict[str, nn.Module]) -> None:
    uses = Counter(id(parameter) for _, parameter in model.named_parameters(remove_duplicate=False))
    for path, layer in found.items():
        if not isinstance(layer.weight, nn.Parameter):
            raise ConfigError(f"the weight of {path or 'the model'} is computed, not a parameter")
        if uses[id(layer.weight)] > 1:
            raise ConfigError(
                f"the weight of {path} serves in several places",
                "a resident layer changes in its backward pass, so it has one place: untie the layers",
            )


class Hardened(NamedTuple):
    """A model with ordinary float layers, and the scales that give their codes back.

    Attributes:
        model: each resident layer replaced by an ``nn.Linear`` or ``nn.Conv2d`` whose weight is ``code * scale``.
        scales: float32 (rows,) of each such layer by path; ``round(weight / scale)`` is the code.
    """

    model: nn.Module
    scales: dict[str, Tensor]


def harden(model: nn.Module, *, inplace: bool = False) -> Hardened:
    """Return ``model`` with float layers in place of resident ones, and the scales of their rows.

    Outputs are those of the resident model bit for bit; residuals and moments are dropped.
    """
    model = model if inplace else copy.deepcopy(model)
    found = {path: module for path, module in model.named_modules() if isinstance(module, ResidentLayer)}
    scales = {path: layer.scale.clone() for path, layer in found.items()}
    return Hardened(replace_modules(model, {path: _float_layer(layer) for path, layer in found.items()}), scales)


def quantized(hardened: Hardened, registry: Registry | None = None) -> nn.Module:
    """Return the hardened model with layers quantized by ``true4bit/tanh``, whose codes are those of training."""
    rules = {path: {"weight": "true4bit/tanh(scale='learned', granularity='row')"} for path in hardened.scales}
    model = quantize(hardened.model, rules, inplace=True, registry=registry)
    for path, scale in hardened.scales.items():
        quantizer = cast(QuantLayer, model.get_submodule(path)).weight_quantizer
        cast(TanhQuantizer, quantizer).step = nn.Parameter(scale)
    return model


def _float_layer(layer: ResidentLayer) -> nn.Module:
    made = _empty_linear(layer) if isinstance(layer, ResidentLinear) else _empty_conv2d(cast(ResidentConv2d, layer))
    made.weight = nn.Parameter(layer.weight_values().contiguous())
    if layer.bias is not None:
        made.bias = layer.bias
    return made.train(layer.training)


def _empty_linear(layer: ResidentLinear) -> nn.Linear:
    made: nn.Linear = skip_init(nn.Linear, layer.in_features, layer.out_features, bias=layer.bias is not None)
    return made


def _empty_conv2d(layer: ResidentConv2d) -> nn.Conv2d:
    walk, (out_channels, per_group, *kernel) = layer.walk, layer.shape
    made: nn.Conv2d = skip_init(
        nn.Conv2d,
        per_group * walk.groups,
        out_channels,
        tuple(kernel),
        stride=walk.stride,
        padding=layer.padding,
        dilation=walk.dilation,
        groups=walk.groups,
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,
    )
    return made
