"""Rows of floats to int8 codes, in the order of operations of ``qcore.tensor.integer``.

Compile without contraction to fused multiply-adds (``enable_fp_fusion=False``): a code must not change by it.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["codes_of", "nearest", "quantize_kernel", "range_numbers"]


@triton.jit
def nearest(v):
    """Return ``v`` rounded to whole numbers, ties to even, for every finite float32."""
    size = tl.abs(v)
    whole = tl.where(size < 8388608.0, (size + 8388608.0) - 8388608.0, size)
    return tl.where(v < 0.0, -whole, whole)


@triton.jit
def range_numbers(low, high, floor, largest, q, AFFINE: tl.constexpr):
    """Return scale, inverse and zero point of a range from ``low <= 0`` to ``high >= 0``."""
    if AFFINE:
        scale = tl.maximum(tl.div_rn(high, q) - tl.div_rn(low, q), floor)
        inverse = tl.div_rn(1.0, scale)
        zero = tl.minimum(tl.maximum(nearest(-low * inverse), 0.0), q)
    else:
        bound = tl.maximum(tl.maximum(high, -low), floor)
        scale = tl.minimum(tl.div_rn(bound, q), largest)
        inverse = tl.div_rn(q, bound)
        zero = 0.0
    return scale, inverse, zero


@triton.jit
def codes_of(v, inside, inverse, zero, q, AFFINE: tl.constexpr):
    """Return the codes of float32 ``v``, int32, affine ones less 128; 0 of NaN and where not ``inside``."""
    code = nearest(v * inverse)
    if AFFINE:
        code = tl.minimum(tl.maximum(code + zero, 0.0), q) - 128.0
    else:
        code = tl.minimum(tl.maximum(code, -q), q)
    return tl.where(inside & (code == code), code, 0.0).to(tl.int32)


@triton.jit
def quantize_kernel(
    x, fixed, codes, x_scale, x_sum, x_less, cols, x_stride, stride, floor, largest, q,
    AFFINE: tl.constexpr, STATIC: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the codes of one row of ``x`` a program.

    Args:
        x: floats (rows, cols), rows ``x_stride`` apart.
        fixed: float32 (3,), scale, inverse and zero point of a static range.
        codes: int8 (rows, stride), affine codes less 128; zeros beyond ``cols``.
        x_scale: float32 (rows,); NaN where a row holds NaN or infinity, so that all its outputs are NaN.
        x_sum: int32 (rows,), the sum of what stands in ``codes``.
        x_less: int32 (rows,), what is to be added to ``codes`` to get codes less their zero point; only if ``AFFINE``.
        cols, x_stride, stride: sizes.
        floor: lower limit of a symmetric bound, at least 2**-100; of an affine scale 2**-100.
        largest: the upper limit of a symmetric scale.
        q: the largest code, a float.
    """
    m = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    low = 0.0
    high = 0.0
    if STATIC:
        scale = tl.load(fixed)
        inverse = tl.load(fixed + 1)
        zero = tl.load(fixed + 2)
    else:
        lows = tl.zeros((BLOCK,), dtype=tl.float32)
        highs = tl.zeros((BLOCK,), dtype=tl.float32)
        for start in range(0, cols, BLOCK):
            col = start + place
            v = tl.load(x + m * x_stride + col, mask=col < cols, other=0.0).to(tl.float32)
            lows = tl.minimum(lows, v)
            highs = tl.maximum(highs, v)
        low = tl.min(lows, axis=0)
        high = tl.max(highs, axis=0)
        scale, inverse, zero = range_numbers(low, high, floor, largest, q, AFFINE)
    sums = tl.zeros((BLOCK,), dtype=tl.int32)
    spoilt = tl.zeros((BLOCK,), dtype=tl.float32)
    for start in range(0, stride, BLOCK):
        col = start + place
        v = tl.load(x + m * x_stride + col, mask=col < cols, other=0.0).to(tl.float32)
        spoilt += v * 0.0
        whole = codes_of(v, col < cols, inverse, zero, q, AFFINE)
        sums += whole
        tl.store(codes + m * stride + col, whole.to(tl.int8), mask=col < stride)
    tl.store(x_scale + m, scale + tl.sum(spoilt, axis=0))
    tl.store(x_sum + m, tl.sum(sums, axis=0))
    if AFFINE:
        tl.store(x_less + m, (128.0 - tl.where(zero == zero, zero, 0.0)).to(tl.int32))
