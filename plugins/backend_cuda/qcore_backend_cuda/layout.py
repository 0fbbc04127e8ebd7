"""The layout of packed weights on the GPU: made at load time, never stored.

A row of codes is cut into chunks of ``lanes * steps`` columns. Code ``s * lanes + lane`` of a chunk lies in byte lane
``lane`` at step ``s``, so that a thread that holds 16 neighbouring bytes finds 16 neighbouring columns at each step by
one shift and one mask, and every load is of 16 bytes in a row of ``lanes`` such bytes.

A code of 1, 2, 4 or 8 bits takes one field of a byte; the others are split into planes of those widths, low bits
first: 3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2, 7 = 4 + 2 + 1. A chunk has as many steps as its narrowest plane has fields in a
byte, and ``bits * steps / 8`` bytes a lane: those of the lowest plane first, each of them for all lanes. No bit is lost
but those that fill up a row to whole chunks.

Codes of 8 bits are stored less 128, as signed bytes: they are operands of the tensor cores as they lie.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ENCODINGS", "LANES", "chunk_cols", "choose_lanes", "planes", "row_nbytes", "steps", "to_lanes"]

ENCODINGS = ("int", "uint", "ternary", "odd", "symmetric")
"""Those that kernels know; a later core may have more, and their codes would be read wrong."""

LANES = (128, 64, 32)
"""The possible numbers of lanes, best first: more are longer runs of memory, fewer waste less of a short row."""

_WASTE = 1.07
"""A row may be longer by this factor for the sake of more lanes."""

_PLANES = {
    1: (1,),
    2: (2,),
    3: (2, 1),
    4: (4,),
    5: (4, 1),
    6: (4, 2),
    7: (4, 2, 1),
    8: (8,),
}


def planes(bits: int) -> tuple[int, ...]:
    """Return the widths of the planes of a code, low bits first."""
    return _PLANES[bits]


def steps(bits: int) -> int:
    """Return how many codes lie in a lane of a chunk."""
    return 8 // _PLANES[bits][-1]


def chunk_cols(bits: int, lanes: int) -> int:
    """Return the columns of a chunk."""
    return lanes * steps(bits)


def row_nbytes(cols: int, bits: int, lanes: int) -> int:
    """Return the bytes of a row."""
    chunks = -(-cols // chunk_cols(bits, lanes))
    return chunks * lanes * bits * steps(bits) // 8


def choose_lanes(cols: int, widths: tuple[int, ...], group_size: int | None = None) -> int:
    """Return the number of lanes for rows of ``cols`` codes.

    Args:
        cols: codes a row.
        widths: the widths of the rows.
        group_size: columns a scale, or None: a multiple of one of :data:`LANES`, so that the columns that a step takes
            at once have one scale.
    """
    possible = [lanes for lanes in LANES if group_size is None or group_size % lanes == 0]
    padded = {lanes: max(-(-cols // chunk_cols(b, lanes)) * chunk_cols(b, lanes) for b in widths) for lanes in possible}
    limit = max(min(padded.values()), cols) * _WASTE
    return next(lanes for lanes in possible if padded[lanes] <= limit)


def to_lanes(codes: Tensor, bits: int, lanes: int) -> Tensor:
    """Return the layout of unsigned codes.

    Args:
        codes: uint8 (rows, cols), below ``2**bits``.
        bits: 1 to 8.
        lanes: one of :data:`LANES`.

    Returns:
        uint8 (rows, row_nbytes).
    """
    rows, cols = codes.shape
    per_chunk = chunk_cols(bits, lanes)
    padded = torch.nn.functional.pad(codes, (0, -cols % per_chunk))
    fields = padded.reshape(rows, -1, steps(bits), lanes)
    if bits == 8:
        return (fields ^ 128).reshape(rows, -1)
    found, low = [], 0
    for width in _PLANES[bits]:
        part = (fields >> low) & ((1 << width) - 1)
        a_byte = 8 // width
        for start in range(0, fields.shape[2], a_byte):
            byte = torch.zeros_like(part[:, :, 0])
            for place in range(a_byte):
                byte |= part[:, :, start + place] << (place * width)
            found.append(byte)
        low += width
    return torch.stack(found, dim=2).reshape(rows, -1)
