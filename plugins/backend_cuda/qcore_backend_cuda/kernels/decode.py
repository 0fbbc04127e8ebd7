"""From bytes of the layout to unsigned codes, and from a whole packed weight to a dense one."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["decode_kernel", "fields", "load_bytes", "plane_bytes"]


@triton.jit
def plane_bytes(b0, b1, b2, b3, b4, b5, b6, BITS: tl.constexpr, STEP: tl.constexpr):
    """Return the bytes of the three planes in which the codes of a step lie; where there are fewer, any."""
    low = b0
    mid = b0
    high = b0
    if BITS == 3:
        if STEP >= 4:
            low = b1
        mid = b2
    if BITS == 5:
        if STEP // 2 == 1:
            low = b1
        if STEP // 2 == 2:
            low = b2
        if STEP // 2 == 3:
            low = b3
        mid = b4
    if BITS == 6:
        if STEP >= 2:
            low = b1
        mid = b2
    if BITS == 7:
        if STEP // 2 == 1:
            low = b1
        if STEP // 2 == 2:
            low = b2
        if STEP // 2 == 3:
            low = b3
        mid = b4
        if STEP >= 4:
            mid = b5
        high = b6
    return low, mid, high


@triton.jit
def _load(pointers, mask, MASKED: tl.constexpr):
    if MASKED:
        return tl.load(pointers, mask=mask, other=0)
    else:
        return tl.load(pointers)


@triton.jit
def load_bytes(pointers, mask, PITCH: tl.constexpr, COUNT: tl.constexpr, MASKED: tl.constexpr):
    """Return the bytes of a chunk, uint8: ``COUNT`` tiles that lie ``PITCH`` bytes apart; the rest repeat the first."""
    b0 = _load(pointers, mask, MASKED)
    b1 = b0
    b2 = b0
    b3 = b0
    b4 = b0
    b5 = b0
    b6 = b0
    if COUNT > 1:
        b1 = _load(pointers + PITCH, mask, MASKED)
        b2 = _load(pointers + 2 * PITCH, mask, MASKED)
    if COUNT > 3:
        b3 = _load(pointers + 3 * PITCH, mask, MASKED)
        b4 = _load(pointers + 4 * PITCH, mask, MASKED)
    if COUNT > 5:
        b5 = _load(pointers + 5 * PITCH, mask, MASKED)
        b6 = _load(pointers + 6 * PITCH, mask, MASKED)
    return b0, b1, b2, b3, b4, b5, b6


@triton.jit
def _field(byte, SHIFT: tl.constexpr, WIDTH: tl.constexpr):
    return (byte.to(tl.int32) >> SHIFT) & ((1 << WIDTH) - 1)


@triton.jit
def fields(
    low, mid, high, BITS: tl.constexpr, STEP: tl.constexpr, dtype: tl.constexpr, ASM: tl.constexpr, AT: tl.constexpr,
    OFFSET: tl.constexpr,
):  # fmt: skip
    """Return the numbers of a step: unsigned codes plus ``OFFSET``, as int8 those of 8 bits less 128.

    ``ASM`` holds, from ``AT`` on, the lines of :mod:`qcore_backend_cuda.kernels.assembly` for this width and dtype, or
    an empty one there, or is empty.
    """
    if BITS == 8 and dtype == tl.int8:
        out = low.to(tl.int8, bitcast=True)
    elif len(ASM) > 0 and len(ASM[AT]) > 0:
        if dtype == tl.int8:
            out = tl.inline_asm_elementwise(ASM[AT + STEP], "=r,r,r,r", [low, mid, high], tl.int8, True, 4)
        elif dtype == tl.float32:
            out = tl.inline_asm_elementwise(ASM[AT + STEP], "=r,=r,=r,=r,r,r,r", [low, mid, high], tl.float32, True, 4)
        elif dtype == tl.float16:
            out = tl.inline_asm_elementwise(ASM[AT + STEP], "=r,=r,r,r,r", [low, mid, high], tl.float16, True, 4)
        else:
            out = tl.inline_asm_elementwise(ASM[AT + STEP], "=r,=r,r,r,r", [low, mid, high], tl.bfloat16, True, 4)
    else:
        if BITS == 8:
            code = low.to(tl.int32) ^ 128
        elif BITS == 3:
            code = _field(low, STEP * 2 % 8, 2) | (_field(mid, STEP, 1) << 2)
        elif BITS == 5:
            code = _field(low, STEP * 4 % 8, 4) | (_field(mid, STEP, 1) << 4)
        elif BITS == 6:
            code = _field(low, STEP * 4 % 8, 4) | (_field(mid, STEP * 2, 2) << 4)
        elif BITS == 7:
            code = _field(low, STEP * 4 % 8, 4) | (_field(mid, STEP * 2 % 8, 2) << 4) | (_field(high, STEP, 1) << 6)
        else:
            code = _field(low, STEP * BITS, BITS)
        out = code.to(dtype)
        if OFFSET != 0.0:
            out = (out + OFFSET).to(dtype)
    return out


@triton.jit
def decode_kernel(
    data,
    scale,
    zero,
    out,
    rows,
    all_rows,
    cols,
    stride,
    row_nbytes,
    BITS: tl.constexpr,
    LANES: tl.constexpr,
    STEPS: tl.constexpr,
    OFFSET: tl.constexpr,
    HAS_ZERO: tl.constexpr,
    GROUP: tl.constexpr,
    ROWS: tl.constexpr,
    dtype: tl.constexpr,
    ASM: tl.constexpr,
):
    """Write a dense weight, row by row in the order in which they are stored.

    To int8 it writes the numbers of :func:`fields`, zeros where a chunk is filled up. To floats it writes
    ``(code + OFFSET - zero) * scale``, rounded once; ``cols`` then bounds what is written.

    Args:
        data: uint8, the block's first row.
        scale, zero: float32 (groups, all_rows), from the block's first row; ``zero`` only with ``HAS_ZERO``.
        out: (rows, stride), at the block's first row.
        rows: of the block; all_rows: between groups of scales; cols, stride, row_nbytes: sizes.
    """
    COUNT: tl.constexpr = BITS * STEPS // 8
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    lane = tl.arange(0, LANES)
    chunk = tl.program_id(1)
    inside = row[:, None] < rows
    at = row.to(tl.int64)[:, None] * row_nbytes + chunk * (LANES * COUNT) + lane[None, :]
    b0, b1, b2, b3, b4, b5, b6 = load_bytes(data + at, inside, LANES, COUNT, True)
    for step in tl.static_range(STEPS):
        low, mid, high = plane_bytes(b0, b1, b2, b3, b4, b5, b6, BITS, step)
        col = (chunk * STEPS + step) * LANES + lane
        places = out + row.to(tl.int64)[:, None] * stride + col[None, :]
        if dtype == tl.int8:
            value = fields(low, mid, high, BITS, step, tl.int8, ASM, 0, 0.0)
            tl.store(places, tl.where(col[None, :] < cols, value, 0), mask=inside & (col[None, :] < stride))
        else:
            value = fields(low, mid, high, BITS, step, tl.float32, ASM, 0, OFFSET)
            group = 0
            if GROUP > 0:
                group = (chunk * STEPS + step) * LANES // GROUP
            # A group beyond the last column has no scale.
            known = (row < rows) & ((chunk * STEPS + step) * LANES < cols)
            if HAS_ZERO:
                value -= tl.load(zero + group * all_rows + row, mask=known, other=0.0)[:, None]
            value *= tl.load(scale + group * all_rows + row, mask=known, other=0.0)[:, None]
            tl.store(places, value.to(dtype), mask=inside & (col[None, :] < cols))
