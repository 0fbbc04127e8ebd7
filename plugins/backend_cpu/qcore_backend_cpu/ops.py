"""The kernels as ``torch.library`` ops, through which ``torch.compile`` and ``torch.export`` pass.

``qcore_cpu::linear(x, block, rows)``, ``qcore_cpu::linear_coded(codes, scale, zero_point, block, rows, step, less)``,
``qcore_cpu::conv2d(x, blocks, out_channels, kernel, stride, padding, dilation)`` and, for the experts of a mixture on
grouped rows, ``qcore_cpu::moe_linear(x, weights, blocks, rows)``. A block is the prepared weight, uint8 (nbytes,),
checked at each call, because an op can be called with anything. Eager layers do not come this way: an op's dispatch
takes longer than a small layer. The ops of training stand in :mod:`qcore_backend_cpu.training_ops`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qcore.errors import UsageError
from qcore.tensor.arithmetic import Conv2dShape
from qcore_backend_cpu.layout import Input
from qcore_backend_cpu.native import load

__all__ = [
    "conv2d_op",
    "linear_coded_op",
    "linear_op",
    "moe_linear_op",
    "out_size",
    "run_conv2d",
    "run_linear",
    "run_linear_coded",
    "run_moe_linear",
]

_LIBRARY = torch.library.Library("qcore_cpu", "DEF")  # type: ignore[no-untyped-call]
for _schema in (
    "linear(Tensor x, Tensor block, int rows) -> Tensor",
    "linear_coded(Tensor codes, Tensor scale, Tensor? zero_point, Tensor block, int rows, int step, int less)"
    " -> Tensor",
    "conv2d(Tensor x, Tensor[] blocks, int out_channels, int[] kernel, int[] stride, int[] padding, int[] dilation)"
    " -> Tensor",
    "moe_linear(Tensor x, Tensor weights, Tensor[] blocks, int rows) -> Tensor",
):
    _LIBRARY.define(_schema)  # type: ignore[no-untyped-call]


def run_linear(x: Tensor, block: Tensor, rows: int) -> Tensor:
    """Return the layer's output (..., rows), the dtype of ``x``, for any float ``x`` (..., cols) on the CPU."""
    cols = x.shape[-1]
    plain = x.detach().reshape(math.prod(x.shape[:-1]), cols).to(torch.float32).contiguous()
    y = torch.empty((plain.shape[0], rows), dtype=torch.float32, device="cpu")
    native, _ = load()
    native.linear(block.data_ptr(), plain.data_ptr(), plain.shape[0], y.data_ptr(), torch.get_num_threads())
    return y.reshape(*x.shape[:-1], rows).to(x.dtype)


def run_linear_coded(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None, block: Tensor, rows: int, step: int, less: int
) -> Tensor:
    """Return the layer's output (tokens, rows), float32; the tensors are float32, contiguous and of one shape."""
    native, _ = load()
    y = torch.empty((codes.shape[0], rows), dtype=torch.float32, device="cpu")
    zero = 0 if zero_point is None else zero_point.data_ptr()
    threads, per_row = torch.get_num_threads(), scale.shape[0] > 1
    addresses = (block.data_ptr(), codes.data_ptr(), codes.shape[0], y.data_ptr())
    native.linear_coded(*addresses, threads, scale.data_ptr(), zero, per_row, step, less)
    return y


def run_moe_linear(x: Tensor, weights: Tensor, blocks: Sequence[Tensor], rows: int) -> Tensor:
    """Return ``sum_e weights[:, e] * layer_e(x)``, (n, rows) in the dtype of ``x`` (n, cols), on grouped rows.

    Args:
        x: float (n, cols).
        weights: float (n, experts); an expert sees the rows whose weight for it is not 0.
        blocks: one prepared weight for each expert.
        rows: outputs of each.
    """
    plain = x.detach().to(torch.float32).contiguous()
    shares = weights.detach().to(torch.float32).contiguous()
    y = torch.empty((plain.shape[0], rows), dtype=torch.float32, device="cpu")
    native, _ = load()
    addresses = [block.data_ptr() for block in blocks]
    threads = torch.get_num_threads()
    native.moe_linear(addresses, shares.data_ptr(), plain.data_ptr(), plain.shape[0], y.data_ptr(), threads)
    return y.to(x.dtype)


def run_conv2d(
    x: Tensor,
    blocks: Sequence[Tensor],
    out_channels: int,
    kernel: tuple[int, int],
    conv: Conv2dShape,
    coded: tuple[Tensor, Tensor | None, int] | None = None,
) -> Tensor:
    """Return the convolution of ``x`` (n, channels, height, width), its dtype and memory format.

    Args:
        x: float images, or codes if ``coded``.
        blocks: one prepared weight for each group.
        out_channels: of all groups together.
        kernel: (height, width).
        conv: how it walks.
        coded: scale and zero point of coded images, one or one an image, and what to take off a code to get a byte.
    """
    size = out_size((x.shape[2], x.shape[3]), kernel, conv)
    memory_format = format_of(x)
    shape_out = (x.shape[0], out_channels, *size)
    y = torch.empty(shape_out, dtype=torch.float32, device="cpu", memory_format=memory_format)
    shape = [*x.shape[1:], *kernel, *conv.stride, *conv.padding, *conv.dilation, out_channels, *size]
    plain = x.detach().to(torch.float32).contiguous(memory_format=memory_format)
    addresses = [block.data_ptr() for block in blocks]
    scale, zero, less = coded or (None, None, 0)
    native, _ = load()
    native.convolution(
        addresses,
        shape,
        plain.data_ptr(),
        x.shape[0],
        y.data_ptr(),
        torch.get_num_threads(),
        0 if scale is None else scale.data_ptr(),
        0 if zero is None else zero.data_ptr(),
        scale is not None and scale.shape[0] > 1,
        less,
        memory_format is torch.channels_last,
    )
    return y.to(x.dtype)


def format_of(x: Tensor) -> torch.memory_format:
    """Return the memory format of images; contiguous where it is neither."""
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def out_size(size: tuple[int, int], kernel: tuple[int, int], conv: Conv2dShape) -> tuple[int, int]:
    """Return (height, width) of a convolution's output."""
    height, width = (
        (size[i] + 2 * conv.padding[i] - conv.dilation[i] * (kernel[i] - 1) - 1) // conv.stride[i] + 1 for i in (0, 1)
    )
    return height, width


def _check_block(block: Tensor, rows: int, cols: int, what: str) -> tuple[object, ...]:
    """Return input, segments, ISA and activations of a block that fits ``what``; an error for another.

    Args:
        block: a prepared weight.
        rows: outputs of it.
        cols: features, or taps of a convolution.
        what: ``"floats"`` or ``"codes"``, which it takes, or ``"depthwise"``: a block of all channels, of floats.
    """
    *found, depthwise = _described(block)
    if depthwise != (what == "depthwise") or found[:2] != [rows, cols] or (found[2] == 2) != (what == "codes"):
        raise UsageError(f"a weight of {found[0]} x {found[1]} for {what} of {cols} features and {rows} outputs")
    return tuple(found[2:])


def _described(block: Tensor) -> tuple[Any, ...]:
    """Return what a prepared weight says of itself; an error for anything else."""
    if block.dtype is not torch.uint8 or not block.is_contiguous() or block.device.type != "cpu":
        raise UsageError("a prepared weight is a contiguous uint8 tensor on the CPU")
    native, _ = load()
    try:
        found: tuple[Any, ...] = native.describe(block.data_ptr(), block.numel())
    except ValueError as error:
        raise UsageError(str(error)) from error
    return found


def _linear(x: Tensor, block: Tensor, rows: int) -> Tensor:
    _check_block(block, rows, x.shape[-1], "floats")
    return run_linear(x, block, rows)


def _moe_linear(x: Tensor, weights: Tensor, blocks: list[Tensor], rows: int) -> Tensor:
    if x.dim() != 2 or not blocks or weights.shape != (x.shape[0], len(blocks)):
        what = f"{tuple(x.shape)}, {tuple(weights.shape)} and {len(blocks)} blocks"
        raise UsageError(f"(rows, features), (rows, experts) and a block for each expert, not {what}")
    for block in blocks:
        _check_block(block, rows, x.shape[1], "floats")
    return run_moe_linear(x, weights, blocks, rows)


def _linear_coded(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None, block: Tensor, rows: int, step: int, less: int
) -> Tensor:
    if codes.dim() != 2:
        raise UsageError(f"codes (rows, features), not {tuple(codes.shape)}")
    _check_block(block, rows, codes.shape[1], "codes")
    wanted = {(1, 1), (codes.shape[0], 1)}
    for part in (scale, *(() if zero_point is None else (zero_point,))):
        if part.dtype is not torch.float32 or tuple(part.shape) not in wanted or part.shape != scale.shape:
            raise UsageError(f"one float32 scale and zero point a row, or one, not {tuple(part.shape)}")
    if step not in (1, 2):
        raise UsageError(f"codes step by 1 or 2, not {step}")
    zero = None if zero_point is None else zero_point.contiguous()
    return run_linear_coded(codes.float().contiguous(), scale.contiguous(), zero, block, rows, step, less)


def _conv2d(
    x: Tensor,
    blocks: list[Tensor],
    out_channels: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    groups, (high, wide) = len(blocks), kernel
    if groups == 0 or out_channels % groups or x.dim() != 4 or x.shape[1] % groups or min(kernel) < 1:
        raise UsageError(f"{groups} groups for {tuple(x.shape)} and {out_channels} output channels")
    terms, kind = x.shape[1] // groups * high * wide, "floats"
    if groups == 1 and _described(blocks[0])[-1] and out_channels == x.shape[1]:
        terms, kind = high * wide, "depthwise"
    found = {_check_block(block, out_channels // groups, terms, kind) for block in blocks}
    _, segments, *_ = next(iter(found))
    if len(found) > 1 or segments != 1 or any(kind not in (Input.DYNAMIC, Input.FIXED) for kind, *_ in found):
        raise UsageError(
            "the blocks of a convolution are prepared alike, for integer activations and one sum an output"
        )
    conv = Conv2dShape(_pair(stride), _pair(padding), _pair(dilation), groups)
    size = out_size((x.shape[2], x.shape[3]), (high, wide), conv)
    if min(size) < 1 or min(*stride, *dilation) < 1 or min(padding) < 0:
        raise UsageError(f"a kernel of {high} x {wide} does not walk {tuple(x.shape)} so")
    return run_conv2d(x, blocks, out_channels, (high, wide), conv)


def _pair(values: list[int]) -> tuple[int, int]:
    first, second = values
    return first, second


def _fake_linear(x: Tensor, block: Tensor, rows: int) -> Tensor:
    return x.new_empty((*x.shape[:-1], rows))


def _fake_moe_linear(x: Tensor, weights: Tensor, blocks: list[Tensor], rows: int) -> Tensor:
    return x.new_empty((x.shape[0], rows))


def _fake_linear_coded(
    codes: Tensor, scale: Tensor, zero_point: Tensor | None, block: Tensor, rows: int, step: int, less: int
) -> Tensor:
    return codes.new_empty((codes.shape[0], rows), dtype=torch.float32)


def _fake_conv2d(
    x: Tensor,
    blocks: list[Tensor],
    out_channels: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
) -> Tensor:
    conv = Conv2dShape(_pair(stride), _pair(padding), _pair(dilation))
    size = out_size((x.shape[2], x.shape[3]), _pair(kernel), conv)
    return torch.empty((x.shape[0], out_channels, *size), dtype=x.dtype, device=x.device, memory_format=format_of(x))


for _name, _run, _fake in (
    ("linear", _linear, _fake_linear),
    ("linear_coded", _linear_coded, _fake_linear_coded),
    ("conv2d", _conv2d, _fake_conv2d),
    ("moe_linear", _moe_linear, _fake_moe_linear),
):
    _LIBRARY.impl(_name, _run, "CPU")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"qcore_cpu::{_name}", _fake, lib=_LIBRARY)

linear_op = torch.ops.qcore_cpu.linear.default
linear_coded_op = torch.ops.qcore_cpu.linear_coded.default
conv2d_op = torch.ops.qcore_cpu.conv2d.default
moe_linear_op = torch.ops.qcore_cpu.moe_linear.default
