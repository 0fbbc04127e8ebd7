"""Layers initialised from a generator; torch's own constructors draw from the global random state."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

__all__ = ["conv2d", "linear", "skip_init"]


def linear(in_features: int, out_features: int, generator: torch.Generator, *, bias: bool = True) -> nn.Linear:
    """Return a linear layer with torch's default distribution, U(-1/sqrt(in), 1/sqrt(in))."""
    layer: nn.Linear = skip_init(nn.Linear, in_features, out_features, bias=bias)
    _draw(layer, in_features, generator)
    return layer


def conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    generator: torch.Generator,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    bias: bool = True,
) -> nn.Conv2d:
    """Return a convolution with torch's default distribution, U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    layer: nn.Conv2d = skip_init(
        nn.Conv2d, in_channels, out_channels, kernel_size, stride=stride, padding=padding, groups=groups, bias=bias
    )
    _draw(layer, in_channels // groups * kernel_size**2, generator)
    return layer


def skip_init(kind: type[nn.Module], *args: Any, **options: Any) -> Any:
    """Return a layer of ``kind`` whose weights are not drawn, so that the global random state is not touched."""
    return nn.utils.skip_init(kind, *args, **options)  # type: ignore[no-untyped-call]


def _draw(layer: nn.Linear | nn.Conv2d, fan_in: int, generator: torch.Generator) -> None:
    nn.init.kaiming_uniform_(layer.weight, a=math.sqrt(5), generator=generator)
    if layer.bias is not None:
        bound = 1 / math.sqrt(fan_in) if fan_in else 0.0
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
