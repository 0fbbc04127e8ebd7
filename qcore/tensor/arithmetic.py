"""The one arithmetic of quantized layers: what eval mode and every backend compute, bit for bit.

``acc`` is the exact integer sum of products of ``code - zero_point``; then, in float32 and in this order,

    s = s_x * s_w;   y = float(acc) * s;   y = y + bias

with the sum rounded to float32 to nearest even and no fused multiply-add. Sums are exact because floats hold all whole
numbers up to 2**24 (float32) or 2**53 (float64), whatever the order of the additions.

Group scales are float by nature: ``y`` is then the float32 sum, group by group in order, of ``float(acc_g) * s_g``, and
another backend may differ by ``groups * 2**-23 * sum_g |acc_g * s_g|``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from qcore.tensor.encoded import Encoded

__all__ = ["Conv2dShape", "integer_conv2d", "integer_linear", "is_integer"]

_FLOAT32_WHOLE = 1 << 24
_HAS_ONEDNN: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


class Conv2dShape(NamedTuple):
    """How a convolution walks: pairs are (height, width)."""

    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def is_integer(x: Encoded, w: Encoded) -> bool:
    """Return whether the scales of ``x`` and ``w`` allow one integer sum an output."""
    return x.scale.shape[1] == 1 and w.scale.shape[1] == 1


def integer_linear(x: Encoded, w: Encoded, bias: Tensor | None) -> Tensor:
    """Return ``x @ w.T + bias`` in the arithmetic of this module.

    Args:
        x: activations (..., features), coded per token or per tensor.
        w: weight (out_features, features), coded per tensor, row or group.
        bias: float (out_features,), or None.

    Returns:
        Shape (..., out_features), the dtype of ``x``.
    """
    features = w.codes.shape[1]
    left, right = x.centred().reshape(math.prod(x.shape[:-1]), features), w.centred()
    if is_integer(x, w):
        exact = _exact_dtype(features * x.largest * w.largest, left.device)
        acc = (left.to(exact) @ right.to(exact).t()).to(torch.float32)
        y = acc * (x.scale * w.scale.reshape(1, -1))
    else:
        y = _grouped_linear(left, right, x, w)
    if bias is not None:
        y = y + bias.to(torch.float32)
    return y.reshape(*x.shape[:-1], w.codes.shape[0]).to(x.dtype)


def _grouped_linear(left: Tensor, right: Tensor, x: Encoded, w: Encoded) -> Tensor:
    size = w.group_size or right.shape[1]
    exact = _exact_dtype(size * x.largest * w.largest, left.device)
    y = left.new_zeros(left.shape[0], right.shape[0])
    for group, start in enumerate(range(0, right.shape[1], size)):
        columns = slice(start, start + size)
        acc = (left[:, columns].to(exact) @ right[:, columns].to(exact).t()).to(torch.float32)
        y = y + acc * (x.scale * w.scale[:, group].reshape(1, -1))
    return y


def integer_conv2d(x: Encoded, w: Encoded, bias: Tensor | None, shape: Conv2dShape, weight_shape: torch.Size) -> Tensor:
    """Return the convolution of ``x`` with ``w`` plus ``bias`` in the arithmetic of this module.

    Args:
        x: activations, shape (n, channels * height * width) with ``x.shape`` the four-dimensional one; a sample is a
            token.
        w: weight, coded per tensor or row (output channel).
        bias: float (out_channels,), or None.
        shape: stride, padding, dilation and groups.
        weight_shape: (out_channels, channels / groups, kernel height, kernel width).

    Returns:
        Shape (n, out_channels, out_height, out_width), the dtype of ``x``.
    """
    terms = weight_shape[1] * weight_shape[2] * weight_shape[3]
    exact = _exact_dtype(terms * x.largest * w.largest, w.codes.device)
    if not (_HAS_ONEDNN and torch.backends.mkldnn.enabled):
        exact = torch.float64  # torch then convolves float32 by transforms that round
    images = x.centred().reshape(x.shape).to(exact)
    kernel = w.centred().reshape(weight_shape).to(exact)
    acc = F.conv2d(images, kernel, None, *shape).to(torch.float32)
    y = acc * (x.scale.reshape(-1, 1, 1, 1) * w.scale.reshape(1, -1, 1, 1))
    if bias is not None:
        y = y + bias.to(torch.float32).reshape(1, -1, 1, 1)
    return y.to(x.dtype)


def _exact_dtype(largest_sum: int, device: torch.device) -> torch.dtype:
    # Tensor cores and autocast round float32 operands to fewer bits; both leave float64 alone.
    if largest_sum <= _FLOAT32_WHOLE and device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
        return torch.float32
    return torch.float64
