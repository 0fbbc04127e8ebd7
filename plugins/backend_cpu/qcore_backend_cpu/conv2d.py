"""Packed convolutions: from tensors to addresses."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qcore.backends import is_recorded
from qcore.errors import UsageError
from qcore.tensor import QTensor
from qcore.tensor.layers import conv2d
from qcore_backend_cpu.linear import Call, Input, byte_of, scales_of
from qcore_backend_cpu.ops import conv2d_op, out_size, run_conv2d
from qcore_backend_cpu.prepare import fits_32_bits, prepare_block

if TYPE_CHECKING:
    from qcore.backends import KernelRequest
    from qcore.tensor.arithmetic import Conv2dShape

__all__ = ["conv2d_blocks", "conv2d_call"]


def conv2d_blocks(request: KernelRequest, weight: QTensor, bias: Tensor | None) -> list[Tensor]:
    """Return one prepared block for each group of channels; columns in the order (height, width, channel).

    A depthwise convolution has one block for all channels.
    """
    assert request.conv is not None
    groups, shape = request.conv.groups, request.weight_shape
    if _is_depthwise(request) and fits_32_bits(request, weight):
        return [prepare_block(request, weight, bias, depthwise=True)]
    columns = torch.arange(weight.cols, dtype=torch.int32).reshape(shape[1:]).permute(1, 2, 0).flatten()
    rows = shape[0] // groups
    return [
        prepare_block(request, part, None if bias is None else bias[i * rows : (i + 1) * rows], columns)
        for i, part in enumerate(_split(weight, groups))
    ]


def conv2d_call(request: KernelRequest, weight: QTensor, blocks: list[Tensor], bias: Tensor | None) -> Call:
    """Return what computes an integer convolution on (n, channels, height, width)."""
    conv = request.conv
    assert conv is not None
    out_channels, channels = request.weight_shape[0], request.weight_shape[1] * conv.groups
    kernel = (request.weight_shape[2], request.weight_shape[3])
    walk = (list(kernel), list(conv.stride), list(conv.padding), list(conv.dilation))

    def call(x: Input) -> Tensor:
        _check(x, channels, kernel, conv)
        if isinstance(x, Tensor):
            if is_recorded() or type(x) not in (Tensor, torch.nn.Parameter):
                compiled: Tensor = conv2d_op(x, blocks, out_channels, *walk)
                return compiled
            return run_conv2d(x, blocks, out_channels, kernel, conv)
        if byte_of(x)[0] != 1 or is_recorded():
            return conv2d(x, weight.unpack(), bias, conv)  # padding has no byte among odd codes of eight bits
        codes = x.codes.reshape(x.shape)
        return run_conv2d(codes, blocks, out_channels, kernel, conv, (*scales_of(x), byte_of(x)[1])).to(x.dtype)

    return call


def _is_depthwise(request: KernelRequest) -> bool:
    """Return whether every input channel has one kernel, and one output channel, of its own."""
    assert request.conv is not None
    return request.conv.groups > 1 and tuple(request.weight_shape[:2]) == (request.conv.groups, 1)


def _check(x: Input, channels: int, kernel: tuple[int, int], conv: Conv2dShape) -> None:
    if isinstance(x, Tensor) and (not x.dtype.is_floating_point or x.device.type != "cpu"):
        raise UsageError(f"this layer takes float tensors on the CPU, not {x.dtype} on {x.device}")
    if len(x.shape) != 4 or x.shape[1] != channels:
        raise UsageError(f"this layer takes (n, {channels}, height, width), not {tuple(x.shape)}")
    if min(out_size((x.shape[2], x.shape[3]), kernel, conv)) < 1:
        raise UsageError(f"a kernel of {kernel} does not fit {tuple(x.shape)} padded by {conv.padding}")


def _split(weight: QTensor, groups: int) -> list[QTensor]:
    if groups == 1:
        return [weight]
    whole = weight.unpack()
    rows = whole.codes.shape[0] // groups
    parts = []
    for start in range(0, rows * groups, rows):
        chosen = slice(start, start + rows)

        def cut(tensor: Tensor, chosen: slice = chosen) -> Tensor:
            return tensor if tensor.shape[0] == 1 else tensor[chosen]

        zero = None if whole.zero_point is None else cut(whole.zero_point)
        bits = whole.bits if isinstance(whole.bits, int) else whole.bits[chosen]
        shape = torch.Size((rows, *whole.shape[1:]))
        part = replace(
            whole, codes=whole.codes[chosen], scale=cut(whole.scale), shape=shape, zero_point=zero, bits=bits
        )
        parts.append(QTensor.pack(part))
    return parts
