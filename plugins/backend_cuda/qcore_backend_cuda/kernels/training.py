"""Fake quantization and its gradients: one pass over memory each way.

Slices (slices, n) lie side by side. A program takes a tile of slices and columns; grids have one axis, since only the
first may be longer than 65535. Everything is float32 and in the order of operations that the core gives: compile
without contraction to fused multiply-adds (``enable_fp_fusion=False``). A program that finds NaN or infinity raises a
flag.
"""

from __future__ import annotations

import triton
import triton.language as tl

from qcore_backend_cuda.kernels.quantize import nearest

__all__ = [
    "bounds_kernel",
    "grid_kernel",
    "learned_scale_kernel",
    "mask_kernel",
    "range_kernel",
    "sign_kernel",
    "sums_kernel",
]

_LARGEST = tl.constexpr(3.4028234663852886e38)


@triton.jit
def _tile(slices, n, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Return slice numbers (ROWS, 1), places and mask (ROWS, COLS) of this program's tile."""
    across = tl.cdiv(n, COLS)
    row = tl.program_id(0) // across * ROWS + tl.arange(0, ROWS)
    col = tl.program_id(0) % across * COLS + tl.arange(0, COLS)
    mask = (row < slices)[:, None] & (col < n)[None, :]
    return row[:, None], row.to(tl.int64)[:, None] * n + col[None, :], mask


@triton.jit
def _report(v, flag):
    """Raise the flag if a number is NaN or infinite."""
    bad = tl.max(tl.max(tl.where(tl.abs(v) <= _LARGEST, 0, 1), axis=1), axis=0)
    if bad > 0:
        tl.store(flag, 1)


@triton.jit
def _each(values, row, slices, EACH: tl.constexpr):
    """Return what is given for each slice, or for all, (ROWS, 1)."""
    if EACH:
        return tl.load(values + row, mask=row < slices, other=1.0)
    else:
        return tl.load(values + row * 0)


@triton.jit
def _round_over_range(v, low, high, floor, largest, q, SYMMETRIC: tl.constexpr):
    """Return ``v`` (ROWS, COLS) rounded over the ranges ``low <= 0 <= high`` (ROWS, 1)."""
    q = tl.zeros_like(low) + q
    if SYMMETRIC:
        bound = tl.maximum(tl.maximum(high, -low), floor)
        scale = tl.minimum(tl.div_rn(bound, q), largest)
        code = nearest(v * tl.div_rn(q, bound))
        return tl.minimum(tl.maximum(code, -q), q) * scale
    else:
        scale = tl.maximum(tl.div_rn(high, q) - tl.div_rn(low, q), floor)
        inverse = tl.div_rn(tl.zeros_like(scale) + 1.0, scale)
        zero = tl.minimum(tl.maximum(nearest(-low * inverse), 0.0), q)
        code = tl.minimum(tl.maximum(nearest(v * inverse) + zero, 0.0), q)
        return tl.minimum(tl.maximum((code - zero) * scale, -_LARGEST), _LARGEST)


@triton.jit
def range_kernel(
    x, y, bounds, flag, slices, n, floor, largest, q, parts,
    SYMMETRIC: tl.constexpr, WHOLE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    PARTS: tl.constexpr,
):  # fmt: skip
    """Round each slice over its own range.

    With ``WHOLE`` a tile holds its slices whole; else ``bounds`` (slices, parts, 2) are those of their parts.
    """
    row, place, mask = _tile(slices, n, ROWS, COLS)
    v = tl.load(x + place, mask=mask, other=0.0)
    if WHOLE:
        _report(v, flag)
        low = tl.minimum(tl.min(v, axis=1), 0.0)[:, None]
        high = tl.maximum(tl.max(v, axis=1), 0.0)[:, None]
    else:
        part = tl.arange(0, PARTS)
        at = bounds + (row * parts + part[None, :]) * 2
        known = (row < slices) & (part < parts)[None, :]
        low = tl.min(tl.load(at, mask=known, other=0.0), axis=1)[:, None]
        high = tl.max(tl.load(at + 1, mask=known, other=0.0), axis=1)[:, None]
    tl.store(y + place, _round_over_range(v, low, high, floor, largest, q, SYMMETRIC), mask=mask)


@triton.jit
def bounds_kernel(x, bounds, flag, slices, n, parts, length, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Write the least and the largest number, and 0, of parts of ``length`` columns: (slices, parts, 2)."""
    part = tl.program_id(0) % parts
    row = tl.program_id(0) // parts * ROWS + tl.arange(0, ROWS)
    lows = tl.zeros((ROWS, COLS), dtype=tl.float32)
    highs = tl.zeros((ROWS, COLS), dtype=tl.float32)
    stop = tl.minimum((part + 1) * length, n)
    for start in range(part * length, stop, COLS):
        col = start + tl.arange(0, COLS)
        mask = (row < slices)[:, None] & (col < stop)[None, :]
        v = tl.load(x + row.to(tl.int64)[:, None] * n + col[None, :], mask=mask, other=0.0)
        _report(v, flag)
        lows = tl.minimum(lows, v)
        highs = tl.maximum(highs, v)
    at = bounds + (row * parts + part) * 2
    tl.store(at, tl.min(lows, axis=1), mask=row < slices)
    tl.store(at + 1, tl.max(highs, axis=1), mask=row < slices)


@triton.jit
def grid_kernel(
    x, y, scale, inverse, zero, flag, slices, n, low, high,
    EACH_SCALE: tl.constexpr, EACH_INVERSE: tl.constexpr, EACH_ZERO: tl.constexpr, HAS_INVERSE: tl.constexpr,
    HAS_ZERO: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Round to a grid: see ``qcore.backends.Grid``."""
    row, place, mask = _tile(slices, n, ROWS, COLS)
    v = tl.load(x + place, mask=mask, other=0.0)
    _report(v, flag)
    size = _each(scale, row, slices, EACH_SCALE)
    if HAS_INVERSE:
        code = nearest(v * _each(inverse, row, slices, EACH_INVERSE))
    else:
        code = nearest(tl.div_rn(v, tl.broadcast_to(size, (ROWS, COLS))))
    if HAS_ZERO:
        less = _each(zero, row, slices, EACH_ZERO)
        code = tl.minimum(tl.maximum(code + less, low), high) - less
        out = tl.minimum(tl.maximum(code * size, -_LARGEST), _LARGEST)
    else:
        out = tl.minimum(tl.maximum(code, low), high) * size
    tl.store(y + place, out, mask=mask)


@triton.jit
def sign_kernel(
    x, y, magnitude, threshold, flag, slices, n,
    EACH_MAGNITUDE: tl.constexpr, EACH_THRESHOLD: tl.constexpr, HAS_THRESHOLD: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Write ``magnitude`` above the threshold, without one from 0 on, else ``-magnitude``."""
    row, place, mask = _tile(slices, n, ROWS, COLS)
    v = tl.load(x + place, mask=mask, other=0.0)
    _report(v, flag)
    size = tl.broadcast_to(_each(magnitude, row, slices, EACH_MAGNITUDE), (ROWS, COLS))
    if HAS_THRESHOLD:
        out = tl.where(v > _each(threshold, row, slices, EACH_THRESHOLD), size, -size)
    else:
        out = tl.where(v >= 0.0, size, -size)
    tl.store(y + place, out, mask=mask)


@triton.jit
def mask_kernel(
    gradient, x, low, high, dx, slices, n, EACH_LOW: tl.constexpr, EACH_HIGH: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Write the gradient where ``low <= x <= high``, else 0."""
    row, place, mask = _tile(slices, n, ROWS, COLS)
    v = tl.load(x + place, mask=mask, other=0.0)
    g = tl.load(gradient + place, mask=mask, other=0.0)
    inside = (v >= _each(low, row, slices, EACH_LOW)) & (v <= _each(high, row, slices, EACH_HIGH))
    tl.store(dx + place, g * tl.where(inside, 1.0, 0.0), mask=mask)


@triton.jit
def learned_scale_kernel(
    gradient, x, scale, dx, parts, slices, n, low, high, count,
    EACH_SCALE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Write ``dL/dx``, and the sums of the terms of ``dL/dscale``, float64 (slices, count): one for each tile."""
    row, place, mask = _tile(slices, n, ROWS, COLS)
    v = tl.load(x + place, mask=mask, other=0.0)
    g = tl.load(gradient + place, mask=mask, other=0.0)
    size = tl.broadcast_to(_each(scale, row, slices, EACH_SCALE), (ROWS, COLS))
    v = tl.div_rn(v, size)
    inside = (v > low) & (v < high)
    term = tl.where(inside, nearest(v) - v, tl.minimum(tl.maximum(v, low), high)) * g
    tl.store(dx + place, g * tl.where(inside, 1.0, 0.0), mask=mask)
    sums = tl.sum(tl.where(mask, term, 0.0).to(tl.float64), axis=1)
    line = tl.program_id(0) // count * ROWS + tl.arange(0, ROWS)
    tl.store(parts + line.to(tl.int64) * count + tl.program_id(0) % count, sums, mask=line < slices)


@triton.jit
def sums_kernel(
    x, out, n, segments, MAGNITUDE: tl.constexpr, LEVELS: tl.constexpr, LAST: tl.constexpr
):  # fmt: skip
    """Add up ``2**LEVELS`` rows of 128 numbers of a slice, in the order of ``qcore.tensor.sums``.

    Args:
        x: float32 or float64 (slices, n).
        out: float64: (slices, segments, 128), or (slices,) with ``LAST``, when the 128 are added up as well.
        n, segments: sizes.
    """
    segment = tl.program_id(0) % segments
    row = segment * (1 << LEVELS) + tl.arange(0, 1 << LEVELS)
    slice_ = tl.program_id(0) // segments
    col = row[:, None] * 128 + tl.arange(0, 128)[None, :]
    v = tl.load(x + slice_.to(tl.int64) * n + col, mask=col < n, other=0.0)
    if MAGNITUDE:
        v = tl.abs(v)
    v = v.to(tl.float64)
    for level in tl.static_range(LEVELS):
        v = tl.sum(tl.reshape(v, (1 << (LEVELS - level - 1), 2, 128)), axis=1)
    if LAST:
        v = tl.reshape(v, (128,))
        for level in tl.static_range(7):
            v = tl.sum(tl.reshape(v, (2, 64 >> level)), axis=0)
        tl.store(out + slice_ + tl.arange(0, 1), v)
    else:
        v = tl.reshape(v, (128,))
        tl.store(out + (slice_.to(tl.int64) * segments + segment) * 128 + tl.arange(0, 128), v)
