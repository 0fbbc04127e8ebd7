"""Packed linear layers: ``y = x @ w.T + bias`` from packed codes, without a dense weight.

Two kernels, each for float inputs and for int8 ones. ``gemv`` serves a few rows of input on the ordinary units: a
program takes some output rows whole, its threads share out their columns. ``dot`` serves more rows on the tensor cores,
the decoded weight on the left, and may split the columns between programs, which then leave partial sums.

Blocks of rows of different widths are served by one launch: a program finds its block in a table. Integer sums are
exact; what follows them is in the order that the core's arithmetic gives, so the kernels must be compiled without
contraction to fused multiply-adds (``enable_fp_fusion=False``) wherever the input is int8.
"""

from __future__ import annotations

import triton
import triton.language as tl

from qcore_backend_cuda.kernels.decode import fields, load_bytes, plane_bytes
from qcore_backend_cuda.kernels.quantize import codes_of, range_numbers

__all__ = ["DP4A", "dot_kernel", "finish_kernel", "gemv_kernel"]

DP4A = "dp4a.s32.s32 $0, $4, $5, $6;\nmov.b32 $1, $7;\nmov.b32 $2, $8;\nmov.b32 $3, $9;"
"""Adds the products of four lanes to the first lane's sum."""


@triton.jit
def _finish(
    acc, row, inside, scale, offset, total, bias, x_scale, x_sum, x_less, A: tl.constexpr, AX: tl.constexpr,
    INTEGER: tl.constexpr, GROUP: tl.constexpr, HAS_BIAS: tl.constexpr, AFFINE: tl.constexpr,
):  # fmt: skip
    """Return outputs, float32, from sums (rows, inputs): see :class:`qcore_backend_cuda.weights.PackedWeight`.

    ``x_scale``, ``x_sum`` and ``x_less`` are those of the inputs, (1, inputs).
    """
    known_row = inside[:, None]
    if INTEGER:
        acc = acc * A + tl.load(offset + row, mask=inside, other=0)[:, None] * x_sum
        acc = acc * AX
        if AFFINE:
            acc += tl.load(total + row, mask=inside, other=0)[:, None] * x_less
        s = x_scale * tl.load(scale + row, mask=inside, other=0.0)[:, None]
        y = acc.to(tl.float32) * s
    elif GROUP > 0:
        y = acc
    else:
        y = acc * tl.load(scale + row, mask=inside, other=0.0)[:, None]
    if HAS_BIAS:
        y += tl.load(bias + row, mask=inside, other=0.0)[:, None]
    return tl.where(known_row, y, 0.0)


@triton.jit
def _inputs(x_scale, x_sum, x_less, m, INTEGER: tl.constexpr, AFFINE: tl.constexpr):
    """Return scale, sum and what is to be added of the inputs ``m``, (1, inputs)."""
    scale = tl.zeros_like(m)[None, :].to(tl.float32)
    total = tl.zeros_like(m)[None, :].to(tl.int32)
    less = total
    if INTEGER:
        scale = tl.load(x_scale + m)[None, :]
        total = tl.load(x_sum + m)[None, :]
        if AFFINE:
            less = tl.load(x_less + m)[None, :]
    return scale, total, less


@triton.jit
def _segment(table, all_rows, i: tl.constexpr, SEGMENTS: tl.constexpr):
    """Return rows, first row and first byte of the ``i``-th block of rows; one block alone needs no look."""
    rows = all_rows
    first = 0
    begin = 0
    if SEGMENTS > 1:
        rows = tl.load(table + 3 * i).to(tl.int32)
        first = tl.load(table + 3 * i + 1).to(tl.int32)
        begin = tl.multiple_of(tl.load(table + 3 * i + 2), 16)
    return rows, first, begin


@triton.jit
def _gemv_block(
    x, data, zero, scale, local, rows, all_rows, first, m, cols, x_stride, lanes_total,
    unknown, inverse, x_zero, q, BITS: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr, OFFSET: tl.constexpr,
    HAS_ZERO: tl.constexpr, GROUP: tl.constexpr, INTEGER: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr,
    ASM: tl.constexpr, AT: tl.constexpr, DOT4: tl.constexpr, SHARED: tl.constexpr, FRACTION: tl.constexpr,
    FUSED: tl.constexpr, AFFINE: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Return the sums of ``ROWS`` rows of a block of one width with one row of input.

    And, where the input becomes codes here, the sum of those, and 0, or NaN if the input holds NaN or infinity.
    """
    COUNT: tl.constexpr = BITS * STEPS // 8
    row = local * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    x_at = x + m.to(tl.int64) * x_stride
    # Shared by a program's rows, the input may have to change hands between threads, unless its layout is the bytes'.
    same = tl.zeros((1 if SHARED > 0 else ROWS, 1), dtype=tl.int32)
    start_of_row = data + row.to(tl.int64) * (lanes_total * COUNT)
    if SHARED > 0:
        # A thread holds as many lanes as it loads inputs at once if no more bytes are known to be aligned than that.
        start_of_row += unknown * SHARED
    if INTEGER:
        acc = tl.zeros((ROWS, TILE), dtype=tl.int32)
    else:
        acc = tl.zeros((ROWS, TILE), dtype=tl.float32)
    if FRACTION:
        inputs = tl.zeros((1, TILE), dtype=tl.float32)
    code_sums = tl.zeros((1, TILE), dtype=tl.int32)
    spoilt = tl.zeros((1, TILE), dtype=tl.float32)
    if HAS_ZERO and GROUP == 0 and not INTEGER:
        less = tl.load(zero + first + row, mask=inside, other=0.0)[:, None]
    for start in tl.range(0, lanes_total, TILE, num_stages=STAGES):
        lane = start + tl.arange(0, TILE)
        chunk = lane // LANES
        at = start_of_row[:, None] + (chunk * (LANES * COUNT) + lane % LANES)[None, :]
        same_lane = same + lane[None, :]
        mask = inside[:, None] & (lane < lanes_total)[None, :]
        b0, b1, b2, b3, b4, b5, b6 = load_bytes(at, mask, LANES, COUNT, True)
        for step in tl.static_range(STEPS):
            low, mid, high = plane_bytes(b0, b1, b2, b3, b4, b5, b6, BITS, step)
            col = chunk * (LANES * STEPS) + step * LANES + lane % LANES
            if INTEGER:
                w = fields(low, mid, high, BITS, step, tl.int8, ASM, AT, 0.0)
                if FUSED:
                    known = same + col[None, :] < cols
                    v = tl.load(x_at + (same + col[None, :]), mask=known, other=0.0).to(tl.float32)
                    spoilt += v * 0.0
                    whole = codes_of(v, known, inverse, x_zero, q, AFFINE)
                    code_sums += whole
                    given = whole.to(tl.int8)
                else:
                    given = tl.load(x_at + (same + col[None, :]), mask=same_lane < lanes_total, other=0)
                if len(DOT4) > 0:
                    acc = tl.inline_asm_elementwise(DOT4, "=r,=r,=r,=r,r,r,r,r,r,r", [w, given, acc], tl.int32, True, 4)
                else:
                    acc += w.to(tl.int32) * given.to(tl.int32)
            else:
                w = fields(low, mid, high, BITS, step, tl.float32, ASM, AT, OFFSET)
                given = tl.load(x_at + (same + col[None, :]), mask=same + col[None, :] < cols, other=0.0)
                if GROUP > 0:
                    # One chunk a tile: all lanes of a step have one scale. Beyond the last column there is none.
                    place = (start * STEPS + step * LANES) // GROUP * all_rows + first + row
                    known = inside & (start * STEPS + step * LANES < cols)
                    if HAS_ZERO:
                        w -= tl.load(zero + place, mask=known, other=0.0)[:, None]
                    w *= tl.load(scale + place, mask=known, other=0.0)[:, None]
                elif HAS_ZERO:
                    w -= less
                acc += w * given.to(tl.float32)
                if FRACTION:
                    inputs += given.to(tl.float32)
    if FRACTION:
        # The decoded numbers were 1 + code / 2**BITS.
        every = tl.sum(tl.sum(inputs, axis=1), axis=0)
        sums = (tl.sum(acc, axis=1) - every) * (1 << BITS) + every * OFFSET
    else:
        sums = tl.sum(acc, axis=1)
    return sums, tl.sum(tl.sum(code_sums, axis=1), axis=0), tl.sum(tl.sum(spoilt, axis=1), axis=0)


@triton.jit(do_not_specialize=["unknown"])
def gemv_kernel(
    x, x_scale, x_sum, x_less, data, table, scale, zero, offset, total, bias, order, y,
    all_rows, cols, x_stride, y_stride, unknown, fixed, floor, largest, q, A: tl.constexpr, AX: tl.constexpr,
    SEGMENTS: tl.constexpr, WIDTHS: tl.constexpr, STEPS: tl.constexpr, OFFSETS: tl.constexpr,
    LANES: tl.constexpr, HAS_ZERO: tl.constexpr, GROUP: tl.constexpr, INTEGER: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_ORDER: tl.constexpr, AFFINE: tl.constexpr, ROWS: tl.constexpr, TILE: tl.constexpr, ASM: tl.constexpr,
    DOT4: tl.constexpr, SHARED: tl.constexpr, FRACTION: tl.constexpr, FUSED: tl.constexpr, STATIC: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Write the outputs of one row of input for ``ROWS`` rows of the weight; grid (blocks of rows, rows of input).

    ``unknown`` is 0. With ``SHARED``, the inputs of one load of 16 bytes, a thread has all rows of the program, and
    they share what it loads of the input; ``TILE`` must then be ``SHARED`` times the threads. ``FRACTION`` says that
    the lines of ``ASM`` give ``1 + code / 2**bits``, which takes an operation less; it needs ``SHARED``.

    With ``FUSED``, which needs ``SHARED`` too, the input is float, and each program makes its codes as
    :func:`~qcore_backend_cuda.kernels.quantize.quantize_kernel` does, which explains the further arguments.
    """
    program = tl.program_id(0)
    m = tl.program_id(1)
    before = 0
    own_scale = 0.0
    inverse = 0.0
    x_zero = 0.0
    if FUSED and STATIC:
        own_scale = tl.load(fixed)
        inverse = tl.load(fixed + 1)
        x_zero = tl.load(fixed + 2)
    if FUSED and not STATIC:
        lows = tl.zeros((TILE,), dtype=tl.float32)
        highs = tl.zeros((TILE,), dtype=tl.float32)
        for start in range(0, cols, TILE):
            col = start + tl.arange(0, TILE)
            v = tl.load(x + m.to(tl.int64) * x_stride + col, mask=col < cols, other=0.0).to(tl.float32)
            lows = tl.minimum(lows, v)
            highs = tl.maximum(highs, v)
        own_scale, inverse, x_zero = range_numbers(
            tl.min(lows, axis=0), tl.max(highs, axis=0), floor, largest, q, AFFINE
        )
    for i in tl.static_range(SEGMENTS):
        rows, first, begin = _segment(table, all_rows, i, SEGMENTS)
        blocks = tl.cdiv(rows, ROWS)
        if (program >= before) & (program < before + blocks):
            local = program - before
            acc, code_sum, spoilt = _gemv_block(
                x, data + begin, zero, scale, local, rows, all_rows, first, m, cols, x_stride,
                tl.cdiv(cols, LANES * STEPS[i]) * LANES, unknown, inverse, x_zero, q,
                WIDTHS[i], LANES, STEPS[i], OFFSETS[i], HAS_ZERO, GROUP, INTEGER, ROWS, TILE,
                ASM, 8 * i, DOT4, SHARED, FRACTION, FUSED, AFFINE, STAGES,
            )  # fmt: skip
            row = local * ROWS + tl.arange(0, ROWS)
            inside = row < rows
            row = row + first
            ms = m + tl.arange(0, 1)
            xs, xt, xl = _inputs(x_scale, x_sum, x_less, ms, INTEGER and not FUSED, AFFINE)
            if FUSED:
                xs += own_scale + spoilt
                xt += code_sum
                if AFFINE:
                    xl += (128.0 - tl.where(x_zero == x_zero, x_zero, 0.0)).to(tl.int32)
            out = _finish(
                acc[:, None], row, inside, scale, offset, total, bias, xs, xt, xl,
                A, AX, INTEGER, GROUP, HAS_BIAS, AFFINE,
            )  # fmt: skip
            target = row
            if HAS_ORDER:
                target = tl.load(order + row, mask=inside, other=0)
            places = y + ms.to(tl.int64)[None, :] * y_stride + target[:, None]
            tl.store(places, out.to(y.dtype.element_ty), mask=inside[:, None])
        before += blocks


@triton.jit
def _dot_block(
    x, data, zero, scale, local, rows, all_rows, first, m, count, cols, x_stride, chunks, chunk_from, chunk_to,
    BITS: tl.constexpr, LANES: tl.constexpr, STEPS: tl.constexpr, OFFSET: tl.constexpr, HAS_ZERO: tl.constexpr,
    GROUP: tl.constexpr, INTEGER: tl.constexpr, ROWS: tl.constexpr, INPUTS: tl.constexpr, ASM: tl.constexpr,
    AT: tl.constexpr,
):  # fmt: skip
    """Return the sums (``ROWS``, ``INPUTS``) over some chunks of a block of one width."""
    COUNT: tl.constexpr = BITS * STEPS // 8
    row = local * ROWS + tl.arange(0, ROWS)
    inside = row < rows
    lane = tl.arange(0, LANES)
    # Rows beyond the last read the last: their sums are not written, and no load needs a mask.
    at = data + tl.minimum(row, rows - 1).to(tl.int64)[:, None] * (chunks * (LANES * COUNT)) + lane[None, :]
    x_at = x + tl.minimum(m, count - 1).to(tl.int64)[None, :] * x_stride + lane[:, None]
    if INTEGER:
        acc = tl.zeros((ROWS, INPUTS), dtype=tl.int32)
    else:
        acc = tl.zeros((ROWS, INPUTS), dtype=tl.float32)
    if HAS_ZERO and GROUP == 0 and not INTEGER:
        less = tl.load(zero + first + row, mask=inside, other=0.0)[:, None].to(x.dtype.element_ty)
    for chunk in range(chunk_from, chunk_to):
        b0, b1, b2, b3, b4, b5, b6 = load_bytes(at + chunk * (LANES * COUNT), inside, LANES, COUNT, False)
        for step in tl.static_range(STEPS):
            low, mid, high = plane_bytes(b0, b1, b2, b3, b4, b5, b6, BITS, step)
            col = (chunk * STEPS + step) * LANES
            if INTEGER:
                w = fields(low, mid, high, BITS, step, tl.int8, ASM, AT, 0.0)
                given = tl.load(x_at + col)
                acc = tl.dot(w, given, acc, out_dtype=tl.int32)
            else:
                # Whole and half codes of 8 bits are exact in every dtype that comes here.
                w = fields(low, mid, high, BITS, step, x.dtype.element_ty, ASM, AT, OFFSET)
                given = tl.load(x_at + col, mask=(col + lane < cols)[:, None], other=0.0)
                if GROUP > 0:
                    place = col // GROUP * all_rows + first + row
                    known = inside & (col < cols)
                    if HAS_ZERO:
                        w -= tl.load(zero + place, mask=known, other=0.0)[:, None].to(x.dtype.element_ty)
                    part = tl.dot(w, given, input_precision="ieee")
                    acc += part * tl.load(scale + place, mask=known, other=0.0)[:, None]
                else:
                    if HAS_ZERO:
                        w -= less
                    acc = tl.dot(w, given, acc, input_precision="ieee")
    return acc


@triton.jit(do_not_specialize=["count"])
def dot_kernel(
    x, x_scale, x_sum, x_less, data, table, scale, zero, offset, total, bias, order, y, parts,
    count, all_rows, cols, x_stride, y_stride, A: tl.constexpr, AX: tl.constexpr,
    SEGMENTS: tl.constexpr, WIDTHS: tl.constexpr, STEPS: tl.constexpr, OFFSETS: tl.constexpr,
    LANES: tl.constexpr, HAS_ZERO: tl.constexpr, GROUP: tl.constexpr, INTEGER: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_ORDER: tl.constexpr, AFFINE: tl.constexpr, ROWS: tl.constexpr, INPUTS: tl.constexpr, SPLIT: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Write the outputs of ``INPUTS`` rows of input for ``ROWS`` rows of the weight, or partial sums.

    Grid (blocks of weight rows times blocks of input rows, splits). With ``SPLIT`` above 1 a program takes a part of
    the chunks and leaves its sums in ``parts`` (splits, input rows, weight rows as stored).
    """
    program = tl.program_id(0)
    split = tl.program_id(1)
    m_blocks = tl.cdiv(count, INPUTS)
    before = 0
    for i in tl.static_range(SEGMENTS):
        rows, first, begin = _segment(table, all_rows, i, SEGMENTS)
        blocks = tl.cdiv(rows, ROWS) * m_blocks
        if (program >= before) & (program < before + blocks):
            # Neighbouring programs share input and weight in the second-level cache: bands of eight weight blocks.
            within = program - before
            band = 8 * m_blocks
            top = within // band * 8
            high = tl.minimum(tl.cdiv(rows, ROWS) - top, 8)
            local = top + within % band % high
            m_block = within % band // high
            m = m_block * INPUTS + tl.arange(0, INPUTS)
            chunks = tl.cdiv(cols, LANES * STEPS[i])
            chunk_from = split * tl.cdiv(chunks, SPLIT)
            chunk_to = tl.minimum(chunk_from + tl.cdiv(chunks, SPLIT), chunks)
            acc = _dot_block(
                x, data + begin, zero, scale, local, rows, all_rows, first, m, count, cols, x_stride, chunks,
                chunk_from, chunk_to, WIDTHS[i], LANES, STEPS[i], OFFSETS[i], HAS_ZERO, GROUP, INTEGER, ROWS, INPUTS,
                ASM, 8 * i,
            )  # fmt: skip
            row = local * ROWS + tl.arange(0, ROWS)
            inside = row < rows
            row = row + first
            known = inside[:, None] & (m < count)[None, :]
            if SPLIT > 1:
                places = parts + (split * count + m).to(tl.int64)[None, :] * all_rows + row[:, None]
                tl.store(places, acc, mask=known)
            else:
                xs, xt, xl = _inputs(x_scale, x_sum, x_less, tl.minimum(m, count - 1), INTEGER, AFFINE)
                out = _finish(
                    acc, row, inside, scale, offset, total, bias, xs, xt, xl,
                    A, AX, INTEGER, GROUP, HAS_BIAS, AFFINE,
                )  # fmt: skip
                target = row
                if HAS_ORDER:
                    target = tl.load(order + row, mask=inside, other=0)
                places = y + m.to(tl.int64)[None, :] * y_stride + target[:, None]
                tl.store(places, out.to(y.dtype.element_ty), mask=known)
        before += blocks


@triton.jit(do_not_specialize=["count"])
def finish_kernel(
    parts, x_scale, x_sum, x_less, scale, offset, total, bias, order, y, count, all_rows, y_stride,
    A: tl.constexpr, AX: tl.constexpr, INTEGER: tl.constexpr, GROUP: tl.constexpr, HAS_BIAS: tl.constexpr,
    HAS_ORDER: tl.constexpr, AFFINE: tl.constexpr, SPLIT: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Add up partial sums (splits, input rows, weight rows) in their order; grid (blocks of weight rows, inputs)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    m = tl.program_id(1) + tl.arange(0, 1)
    inside = row < all_rows
    acc = tl.load(parts + m.to(tl.int64)[None, :] * all_rows + row[:, None], mask=inside[:, None], other=0)
    for split in tl.static_range(1, SPLIT):
        places = parts + (split * count + m).to(tl.int64)[None, :] * all_rows + row[:, None]
        acc += tl.load(places, mask=inside[:, None], other=0)
    xs, xt, xl = _inputs(x_scale, x_sum, x_less, m, INTEGER, AFFINE)
    out = _finish(
        acc, row, inside, scale, offset, total, bias, xs, xt, xl,
        A, AX, INTEGER, GROUP, HAS_BIAS, AFFINE,
    )  # fmt: skip
    target = row
    if HAS_ORDER:
        target = tl.load(order + row, mask=inside, other=0)
    tl.store(y + m.to(tl.int64)[None, :] * y_stride + target[:, None], out.to(y.dtype.element_ty), mask=inside[:, None])
