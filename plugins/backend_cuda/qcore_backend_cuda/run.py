"""What layers and benchmarks call: inputs become codes, products are taken, weights are decoded."""

from __future__ import annotations

from dataclasses import replace

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from qcore.tensor import ActivationScheme
from qcore.tensor.integer import affine_scale, symmetric_scale
from qcore_backend_cuda.config import Config
from qcore_backend_cuda.kernels.decode import decode_kernel
from qcore_backend_cuda.kernels.quantize import quantize_kernel
from qcore_backend_cuda.launch import Codes, asm_lines, launch, launch_fused, on_device, scheme_numbers
from qcore_backend_cuda.layout import LANES, chunk_cols, row_nbytes, steps
from qcore_backend_cuda.machine import interpreted
from qcore_backend_cuda.weights import PackedWeight

__all__ = ["decode", "quantize", "run_float", "run_fused", "run_integer", "static_numbers"]

_QUANTIZED_AT_ONCE = 4096
_DTYPES = {torch.int8: tl.int8, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


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
        block = min(triton.next_power_of_2(max(stride, 16)), _QUANTIZED_AT_ONCE)
        with on_device(x):
            quantize_kernel[(rows,)](
                x, scale if fixed is None else fixed, codes, scale, sums, less, cols, x.stride(0), stride,
                *scheme_numbers(scheme),
                AFFINE=affine, STATIC=fixed is not None, BLOCK=block,
                num_warps=max(1, min(block // 256, 8)), enable_fp_fusion=False,
            )  # fmt: skip
    return Codes(codes, scale, sums, less, 1, affine)


def run_integer(x: Codes, weight: PackedWeight, dtype: torch.dtype, config: Config) -> Tensor:
    """Return ``y`` (rows, weight rows) in ``dtype``: exact sums, then scales and bias in the core's arithmetic."""
    if config.kind == "dense":
        weight, config = _dense_bytes(weight), Config("dot", *_dense_blocks(len(x.codes)))
    y = torch.empty((len(x.codes), weight.rows), dtype=_written(dtype), device=x.codes.device)
    launch(x.codes, x, weight, y, config)
    return y.to(dtype)


def run_fused(
    x: Tensor, scheme: ActivationScheme, fixed: Tensor | None, weight: PackedWeight, config: Config
) -> Tensor:
    """Return what :func:`quantize` and :func:`run_integer` make of float ``x`` (rows, cols), in one launch."""
    y = torch.empty((len(x), weight.rows), dtype=_written(x.dtype), device=x.device)
    launch_fused(x.float() if interpreted() and x.dtype is torch.bfloat16 else x, scheme, fixed, weight, y, config)
    return y.to(x.dtype)


def run_float(x: Tensor, weight: PackedWeight, config: Config) -> Tensor:
    """Return ``y`` (rows, weight rows) in the dtype of ``x`` (rows, cols), with float32 sums."""
    if config.kind == "dense":
        y = F.linear(x, decode(weight, x.dtype, asm=config.asm), weight.bias.to(x.dtype) if weight.has_bias else None)
        return torch.empty_like(y).index_copy_(1, weight.order.long(), y) if weight.has_order else y
    y = torch.empty((len(x), weight.rows), dtype=_written(x.dtype), device=x.device)
    launch(x.float() if interpreted() and x.dtype is torch.bfloat16 else x, None, weight, y, config)
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
                ASM=asm_lines([bits], [0.0 if integer else offset], kind, asm), num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip
    return out


def _written(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that a kernel writes: the interpreter has no arithmetic of bfloat16, nor rounds to it."""
    return torch.float32 if interpreted() else dtype


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
