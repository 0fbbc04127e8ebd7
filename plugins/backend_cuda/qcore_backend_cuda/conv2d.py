"""Packed convolutions: integer ones by patches and the linear kernels, weight-only ones by torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from qcore.backends import KernelRequest, is_recorded
from qcore.errors import UsageError
from qcore.tensor import ActivationScheme, Encoded, QTensor
from qcore.tensor.arithmetic import Conv2dShape
from qcore.tensor.layers import conv2d
from qcore_backend_cuda.kernels.convolution import patches_kernel
from qcore_backend_cuda.launch import Codes, on_device
from qcore_backend_cuda.linear import Call, Input, coded
from qcore_backend_cuda.ops import conv2d_op, scheme_facts
from qcore_backend_cuda.run import quantize, run_integer, static_numbers
from qcore_backend_cuda.tune import config_for
from qcore_backend_cuda.weights import PackedWeight

__all__ = ["conv2d_call", "conv2d_rows", "conv2d_weights", "decoded_conv2d_call", "op_arguments", "out_size"]


def conv2d_weights(request: KernelRequest, weight: QTensor, bias: Tensor | None) -> tuple[PackedWeight, ...]:
    """Return one prepared weight for each group of channels."""
    assert request.conv is not None
    groups = request.conv.groups
    if groups == 1:
        return (PackedWeight.pack(weight, bias, integer=True),)
    whole, rows = weight.unpack(), request.weight_shape[0] // groups
    parts = []
    for start in range(0, rows * groups, rows):
        chosen = slice(start, start + rows)
        part = QTensor.pack(_cut(whole, chosen))
        parts.append(PackedWeight.pack(part, None if bias is None else bias[chosen], integer=True))
    return tuple(parts)


def _cut(whole: Encoded, chosen: slice) -> Encoded:
    """Return some rows."""

    def part(tensor: Tensor) -> Tensor:
        return tensor if tensor.shape[0] == 1 else tensor[chosen]

    return replace(
        whole,
        codes=whole.codes[chosen],
        scale=part(whole.scale),
        shape=torch.Size((chosen.stop - chosen.start, *whole.shape[1:])),
        zero_point=None if whole.zero_point is None else part(whole.zero_point),
        bits=whole.bits if isinstance(whole.bits, int) else whole.bits[chosen],
    )


def conv2d_call(
    request: KernelRequest, packed: QTensor, bias: Tensor | None, weights: tuple[PackedWeight, ...]
) -> Call:
    """Return what computes an integer convolution on (n, channels, height, width)."""
    conv, shape, scheme = request.conv, request.weight_shape, request.activation
    assert conv is not None
    device = weights[0].data.device
    fixed = static_numbers(scheme, device) if scheme is not None and scheme.is_static else None
    arguments = op_arguments(request, weights)

    def call(x: Input) -> Tensor:
        _check(x, shape, conv, device)
        if isinstance(x, Tensor):
            assert scheme is not None
            if is_recorded() or type(x) not in (Tensor, torch.nn.Parameter):
                seen: Tensor = conv2d_op(x, *arguments)
                return seen
            return conv2d_rows(x, weights, (shape[2], shape[3]), conv, scheme, fixed)
        codes = coded(x, x.codes.shape[1], x.codes.shape[1])
        if codes.step != 1:
            return conv2d(x, packed.unpack(), bias, conv)  # padding has no byte among odd codes of eight bits
        return _products(codes, x.shape, weights, (shape[2], shape[3]), conv, torch.float32).to(x.dtype)

    return call


def op_arguments(
    request: KernelRequest, weights: tuple[PackedWeight, ...]
) -> tuple[list[Tensor], list[int], list[float], list[int]]:
    """Return what :data:`qcore_backend_cuda.ops.conv2d_op` takes after the input."""
    conv, shape, scheme = request.conv, request.weight_shape, request.activation
    assert conv is not None
    parts = [tensor for weight in weights for tensor in weight.tensors()]
    if scheme is not None and scheme.is_static:
        parts.append(static_numbers(scheme, weights[0].data.device))
    facts = [*scheme_facts(scheme), len(weights), *(fact for weight in weights for fact in weight.facts())]
    walk = [shape[2], shape[3], *conv.stride, *conv.padding, *conv.dilation]
    return parts, facts, [0.0 if scheme is None else scheme.floor], walk


def conv2d_rows(
    x: Tensor,
    weights: tuple[PackedWeight, ...],
    kernel: tuple[int, int],
    conv: Conv2dShape,
    scheme: ActivationScheme,
    fixed: Tensor | None,
) -> Tensor:
    """Return the convolution of float images; a sample is a token."""
    rows = x.detach().to(torch.float32 if x.dtype is torch.float64 else x.dtype).resolve_neg().contiguous().flatten(1)
    return _products(quantize(rows, scheme, fixed, rows.shape[1]), x.shape, weights, kernel, conv, x.dtype)


def _products(
    codes: Codes,
    shape: torch.Size,
    weights: tuple[PackedWeight, ...],
    kernel: tuple[int, int],
    conv: Conv2dShape,
    dtype: torch.dtype,
) -> Tensor:
    """Return (n, out_channels, out_height, out_width), channels last in memory."""
    size = out_size((shape[2], shape[3]), kernel, conv)
    places, inputs = size[0] * size[1], shape[1] // conv.groups
    count = shape[0] * places
    # A scale and a zero point a sample become those of its places.
    scale, less = codes.scale.repeat_interleave(places), codes.less
    less = less.repeat_interleave(places) if codes.affine else less
    found = []
    for group, weight in enumerate(weights):
        patches = torch.empty((count, weight.stride), dtype=torch.int8, device=codes.codes.device)
        sums = torch.empty(count, dtype=torch.int32, device=codes.codes.device)
        if count:
            with on_device(patches):
                patches_kernel[(triton.cdiv(count, 16),)](
                    codes.codes, codes.less, patches, sums, count, *shape[1:], group * inputs, inputs, *kernel, *size,
                    *conv.stride, *conv.padding, *conv.dilation, weight.stride,
                    AFFINE=codes.affine, ROWS=16, COLS=128, num_warps=4,
                )  # fmt: skip
        rows = Codes(patches, scale, sums, less, 1, codes.affine)
        found.append(run_integer(rows, weight, dtype, config_for(weight, count, dtype)))
    y = found[0] if len(found) == 1 else torch.cat(found, dim=1)
    return y.reshape(shape[0], *size, y.shape[1]).permute(0, 3, 1, 2)


def decoded_conv2d_call(
    request: KernelRequest, weight: QTensor, bias: Tensor | None
) -> tuple[Callable[..., Tensor], int]:
    """Return what convolves as the reference does, on a weight that is decoded once, and the bytes that takes.

    A convolution whose weight alone is quantized has float sums, and so many of them a weight that fewer bytes save no
    time. What can be saved is decoding at each call.
    """
    assert request.conv is not None
    dense, walk = weight.dequantize(), request.conv

    def call(x: Input) -> Tensor:
        assert isinstance(x, Tensor)
        return F.conv2d(x, dense.to(x.dtype), None if bias is None else bias.to(x.dtype), *walk)

    return call, dense.numel() * dense.element_size()


def out_size(size: tuple[int, int], kernel: tuple[int, int], conv: Conv2dShape) -> tuple[int, int]:
    """Return height and width of the output."""
    height, width = (
        (size[i] + 2 * conv.padding[i] - conv.dilation[i] * (kernel[i] - 1) - 1) // conv.stride[i] + 1 for i in (0, 1)
    )
    return height, width


def _check(x: Input, weight: torch.Size, conv: Conv2dShape, device: torch.device) -> None:
    if isinstance(x, Tensor) and (not x.dtype.is_floating_point or x.device != device):
        raise UsageError(f"this layer takes float tensors on {device}, not {x.dtype} on {x.device}")
    channels = weight[1] * conv.groups
    if len(x.shape) != 4 or x.shape[1] != channels:
        raise UsageError(f"this layer takes (n, {channels}, height, width), not {tuple(x.shape)}")
    if min(out_size((x.shape[2], x.shape[3]), (weight[2], weight[3]), conv)) < 1:
        raise UsageError(f"a kernel of {tuple(weight[2:])} does not fit {tuple(x.shape)} padded by {conv.padding}")
    if not math.prod(x.shape[1:]):
        raise UsageError(f"images without elements: {tuple(x.shape)}")
