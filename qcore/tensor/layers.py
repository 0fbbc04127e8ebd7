"""What a quantized layer computes in eval mode, from coded weights: shared by eval mode and the reference backend."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from qcore.errors import QuantizationError
from qcore.tensor.activation import ActivationScheme
from qcore.tensor.arithmetic import Conv2dShape, integer_conv2d, integer_linear, is_integer
from qcore.tensor.encoded import Encoded

__all__ = ["Input", "conv2d", "linear"]

Input = Tensor | Encoded
"""A layer's input: floats, or already coded."""


def linear(x: Input, weight: Encoded, bias: Tensor | None) -> Tensor:
    """Return the layer's output.

    Args:
        x: (..., features), coded (then the sums are integers) or float (weight-only: dequantize, then a float product).
        weight: coded (out_features, features).
        bias: (out_features,) or None.

    Returns:
        (..., out_features), the dtype of ``x``.
    """
    if isinstance(x, Encoded):
        return integer_linear(x, weight, bias)
    return F.linear(x, weight.decode().to(x.dtype), None if bias is None else bias.to(x.dtype))


def conv2d(x: Input, weight: Encoded, bias: Tensor | None, shape: Conv2dShape) -> Tensor:
    """Return the convolution's output; like :func:`linear`, with ``x`` (n, channels, height, width).

    A coded input has one scale a sample or one for all. With group scales the sums are float: both sides are
    dequantized.
    """
    if isinstance(x, Encoded) and is_integer(x, weight):
        return integer_conv2d(x, weight, bias, shape, weight.shape)
    values = x.decode() if isinstance(x, Encoded) else x
    bias = None if bias is None else bias.to(values.dtype)
    return F.conv2d(values, weight.decode().to(values.dtype), bias, *shape)


def encode_images(x: Tensor, scheme: ActivationScheme) -> Encoded:
    """Return the codes of images (n, channels, height, width): a sample is a token.

    Raises:
        QuantizationError: the scheme has columns, which images have not.
    """
    if scheme.columns is not None:
        raise QuantizationError("columns are features of a linear layer's input: a convolution has none")
    coded = scheme.encode(x.flatten(1))
    return reshaped(coded, x.shape)


def reshaped(coded: Encoded, shape: torch.Size) -> Encoded:
    """Return ``coded`` as a tensor of another shape with the same rows."""
    return Encoded(
        coded.codes, coded.scale, shape, coded.dtype, coded.encoding, coded.bits, coded.zero_point, coded.group_size
    )
