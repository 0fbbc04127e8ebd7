"""Launches of the kernels: from tensors to programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from qcore.tensor import ActivationScheme
from qcore.tensor.integer import TINY, affine_scale, symmetric_scale
from qcore_backend_cuda.config import Config
from qcore_backend_cuda.kernels.assembly import assembly
from qcore_backend_cuda.kernels.decode import decode_kernel
from qcore_backend_cuda.kernels.linear import DP4A, dot_kernel, finish_kernel, gemv_kernel
from qcore_backend_cuda.kernels.quantize import quantize_kernel
from qcore_backend_cuda.layout import LANES, chunk_cols, row_nbytes, steps
from qcore_backend_cuda.machine import interpreted
from qcore_backend_cuda.weights import PackedWeight

__all__ = ["Codes", "decode", "on_device", "quantize", "run_float", "run_integer", "static_numbers"]

_LARGEST = 2.0**128 - 2.0**106
_QUANTIZED_AT_ONCE = 4096
_KINDS = {torch.int8: "int8", torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}
_DTYPES = {torch.int8: tl.int8, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


@dataclass(frozen=True, eq=False)
class Codes:
    """Rows of int8 inputs: ``code - zero_point = step * codes + less``.

    Attributes:
        codes: int8 (rows, stride), zeros beyond the features.
        scale: float32 (rows,).
        total: int32 (rows,), the sums of ``codes``.
        less: int32 (rows,); (1,) where it is 0 everywhere.
        step: 1, or 2 of odd codes.
        affine: whether ``less`` counts.
    """

    codes: Tensor
    scale: Tensor
    total: Tensor
    less: Tensor
    step: int
    affine: bool


@contextmanager
def _device(device: torch.device) -> Iterator[None]:
    with torch.cuda.device(device):
        yield


def on_device(x: Tensor) -> Any:
    """Return a context in which launches go to the device of ``x``."""
    return _device(x.device) if x.is_cuda and x.device.index != torch.cuda.current_device() else nullcontext()


def static_numbers(scheme: ActivationScheme, device: torch.device) -> Tensor:
    """Return scale, inverse and zero point of a static range, float32 (3,)."""
    assert scheme.low is not None
    assert scheme.high is not None
    low, high = scheme.low.to(device).float(), scheme.high.to(device).float()
    if scheme.symmetric:
        found = (*symmetric_scale(high, scheme.bits), torch.zeros_like(high))
    else:
        found = affine_scale(low, high, scheme.bits)
    return torch.cat([part.reshape(1) for part in found])


def quantize(x: Tensor, scheme: ActivationScheme, fixed: Tensor | None, stride: int) -> Codes:
    """Return the codes of ``x`` (rows, cols), float, under ``scheme``; equal to its own bit for bit.

    Args:
        x: float16, bfloat16 or float32, its columns side by side.
        scheme: how.
        fixed: :func:`static_numbers` of a static scheme, else None.
        stride: columns of the result.
    """
    rows, cols = x.shape
    affine = not scheme.symmetric
    codes = torch.empty((rows, stride), dtype=torch.int8, device=x.device)
    scale = torch.empty(rows, dtype=torch.float32, device=x.device)
    # Not parts of one tensor: addresses of another alignment would be other kernels.
    sums, less = (torch.empty(rows, dtype=torch.int32, device=x.device) for _ in range(2))
    if rows:
        largest = (1 << scheme.bits) - 1 if affine else (1 << (scheme.bits - 1)) - 1
        block = min(triton.next_power_of_2(max(stride, 16)), _QUANTIZED_AT_ONCE)
        with on_device(x):
            quantize_kernel[(rows,)](
                x, scale if fixed is None else fixed, codes, scale, sums, less, cols, x.stride(0), stride,
                TINY if affine else max(scheme.floor, TINY), _LARGEST / largest, float(largest),
                AFFINE=affine, STATIC=fixed is not None, BLOCK=block,
                num_warps=max(1, min(block // 256, 8)), enable_fp_fusion=False,
            )  # fmt: skip
    return Codes(codes, scale, sums, less, 1, affine)


def run_integer(x: Codes, weight: PackedWeight, dtype: torch.dtype, config: Config) -> Tensor:
    """Return ``y`` (rows, weight rows) in ``dtype``: exact sums, then scales and bias in the core's arithmetic."""
    if config.kind == "dense":
        weight, config = _dense_bytes(weight), Config("dot", *_dense_blocks(len(x.codes)))
    y = torch.empty((len(x.codes), weight.rows), dtype=_written(dtype), device=x.codes.device)
    _launch(x.codes, x, weight, y, config)
    return y.to(dtype)


def run_float(x: Tensor, weight: PackedWeight, config: Config) -> Tensor:
    """Return ``y`` (rows, weight rows) in the dtype of ``x`` (rows, cols), with float32 sums."""
    if config.kind == "dense":
        y = F.linear(x, decode(weight, x.dtype, asm=config.asm), weight.bias.to(x.dtype) if weight.has_bias else None)
        return torch.empty_like(y).index_copy_(1, weight.order.long(), y) if weight.has_order else y
    y = torch.empty((len(x), weight.rows), dtype=_written(x.dtype), device=x.device)
    _launch(x.float() if interpreted() and x.dtype is torch.bfloat16 else x, None, weight, y, config)
    return y.to(x.dtype)


def decode(weight: PackedWeight, dtype: torch.dtype, *, asm: bool = True) -> Tensor:
    """Return the dense weight, rows as they are stored.

    Args:
        weight: what to decode.
        dtype: a float: values, (rows, cols), rounded once. int8: stored numbers, (rows, stride), zeros to fill up.
        asm: whether to decode in PTX.
    """
    integer = dtype is torch.int8
    stride = weight.stride if integer else weight.cols
    make = torch.zeros if integer and len(weight.widths) > 1 else torch.empty  # a narrower width may leave some out
    out = make((weight.rows, stride), dtype=dtype, device=weight.data.device)
    kind = "int8" if integer else "float32"
    with on_device(out):
        for (bits, rows, first, begin), offset in zip(weight.blocks(), weight.float_offsets(), strict=True):
            chunks = -(-weight.cols // chunk_cols(bits, weight.lanes))
            zero = weight.zero[:, first:] if weight.has_zero else weight.zero
            decode_kernel[(triton.cdiv(rows, 16), chunks)](
                weight.data[begin:], weight.scale[:, first:], zero, out[first:],
                rows, weight.rows, weight.cols, stride, row_nbytes(weight.cols, bits, weight.lanes),
                BITS=bits, LANES=weight.lanes, STEPS=steps(bits), OFFSET=offset,
                HAS_ZERO=weight.has_zero, GROUP=weight.group_size, ROWS=16, dtype=_DTYPES[dtype],
                ASM=_asm([bits], [0.0 if integer else offset], kind, asm), num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip
    return out


def _in_fours(data: Tensor, x: Tensor, config: Config, tile: int) -> bool:
    """Return whether each thread's bytes come in runs of a row, as loads of 16 do: those that one sum takes in."""
    aligned = (data.data_ptr() | x.data_ptr() | x.stride(0)) % 16 == 0
    return aligned and config.rows * tile >= 16 * 32 * config.warps and not interpreted()


def _in_fractions(x: Tensor, weight: PackedWeight, config: Config) -> bool:
    """Return whether codes come as fractions, and the sum of the inputs makes up for it."""
    wanted = config.kind == "gemv" and config.fraction and config.shared and config.asm and not interpreted()
    narrow = max(weight.widths) <= 4 and x.dtype in (torch.float16, torch.bfloat16)
    return wanted and narrow and not weight.has_zero and not weight.group_size


def _written(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that a kernel writes: the interpreter has no arithmetic of bfloat16, nor rounds to it."""
    return torch.float32 if interpreted() else dtype


def _asm(widths: Sequence[int], offsets: Sequence[float], kind: str, asm: bool) -> tuple[str, ...]:
    """Return eight places for each width, the first ones with its lines."""
    if not asm or interpreted():
        return ()
    lines = (assembly(bits, kind, offset) for bits, offset in zip(widths, offsets, strict=True))
    return tuple(line for found in lines for line in (*found, *[""] * 8)[:8])


def _dense_blocks(count: int) -> tuple[int, int, int, int]:
    return (128, 256, 8, 3) if count > 512 else (128, 128, 8, 4)


def _dense_bytes(weight: PackedWeight) -> PackedWeight:
    """Return an integer layer's weight as 8-bit numbers of one block; for the time of a call."""
    if weight.widths == (8,):
        return weight
    data = decode(weight, torch.int8).view(torch.uint8)
    # Signed bytes lie in order, whatever the lanes.
    lanes = next(lanes for lanes in LANES if weight.stride % lanes == 0)
    return replace(weight, data=data, cols=weight.stride, lanes=lanes, widths=(8,), counts=(weight.rows,))


def _launch(x: Tensor, codes: Codes | None, weight: PackedWeight, y: Tensor, config: Config) -> None:
    if not y.numel():
        return
    integer = codes is not None
    count = len(x)
    per_row = (codes.scale, codes.total, codes.less) if codes is not None else (weight.scale,) * 3
    fraction = _in_fractions(x, weight, config)
    kind = "float32" if config.kind == "gemv" and not integer else _KINDS[x.dtype]
    offsets = (0.0,) * len(weight.widths) if integer else weight.float_offsets()
    facts: dict[str, Any] = {
        "A": weight.step,
        "AX": 1 if codes is None else codes.step,
        "INTEGER": integer,
        "GROUP": weight.group_size,
        "HAS_BIAS": weight.has_bias,
        "HAS_ORDER": weight.has_order,
        "AFFINE": codes is not None and codes.affine,
    }
    layout: dict[str, Any] = {
        "SEGMENTS": len(weight.widths),
        "WIDTHS": weight.widths,
        "STEPS": tuple(steps(bits) for bits in weight.widths),
        "OFFSETS": offsets,
        "LANES": weight.lanes,
        "HAS_ZERO": weight.has_zero,
        "ASM": _asm(weight.widths, offsets, "fraction" if fraction else kind, config.asm),
    }
    # Signed bytes go from memory to the tensor cores as they lie.
    data = weight.data.view(torch.int8) if integer and weight.widths == (8,) else weight.data
    common = (
        data,
        weight.table,
        weight.scale,
        weight.zero,
        weight.offset,
        weight.total,
        weight.bias,
        weight.order,
    )
    options = {"num_warps": config.warps, "num_stages": config.stages, "enable_fp_fusion": not integer}
    if config.registers and not interpreted():
        options["maxnreg"] = config.registers
    blocks = sum(triton.cdiv(rows, config.rows) for rows in weight.counts)
    with on_device(x):
        if config.kind == "gemv":
            shared = 16 // x.element_size() if config.shared and not weight.group_size else 0
            tile = weight.lanes if weight.group_size else max(config.across, weight.lanes)
            tile = shared * 32 * config.warps if shared else tile
            dot4 = DP4A if integer and config.asm and _in_fours(data, x, config, tile) else ""
            gemv_kernel[(blocks, count)](
                x, *per_row, *common, y, weight.rows, weight.cols, x.stride(0), weight.rows, 0,
                ROWS=config.rows, TILE=tile, DOT4=dot4, SHARED=shared, FRACTION=fraction, **facts, **layout, **options,
            )  # fmt: skip
            return
        grid = (blocks * triton.cdiv(count, config.across), config.split)
        parts = y
        if config.split > 1:
            dtype = torch.int32 if integer else torch.float32
            parts = torch.empty((config.split, count, weight.rows), dtype=dtype, device=x.device)
        dot_kernel[grid](
            x, *per_row, *common, y, parts, count, weight.rows, weight.cols, x.stride(0), weight.rows,
            ROWS=config.rows, INPUTS=config.across, SPLIT=config.split, **facts, **layout, **options,
        )  # fmt: skip
        if config.split > 1:
            finish_kernel[(triton.cdiv(weight.rows, 256), count)](
                parts, *per_row, weight.scale, weight.offset, weight.total, weight.bias, weight.order, y,
                count, weight.rows, weight.rows, SPLIT=config.split, ROWS=256, **facts,
                num_warps=4, enable_fp_fusion=not integer,
            )  # fmt: skip
