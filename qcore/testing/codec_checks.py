"""Checks on codecs: byte layouts that lose nothing, whatever the width and the size."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from qcore.tensor.codecs import Codec
from qcore.testing.cases import expect
from qcore.testing.inputs import generator

_COLS = (*range(20), 63, 64, 65, 127, 128, 129, 1000)
_ROWS = (0, 1, 3)


def codes(codec: Codec) -> Iterator[tuple[str, int, Tensor]]:
    """Yield (name, bits, codes): random codes of every size, and all codes at either end."""
    for bits, top in [(2, 2)] if codec.name.startswith("trit") else [(bits, 2**bits - 1) for bits in range(1, 9)]:
        for rows in _ROWS:
            for cols in _COLS:
                random = torch.randint(0, top + 1, (rows, cols), generator=generator(cols), dtype=torch.uint8)
                yield f"random ({rows}, {cols}), {bits} bits", bits, random
        for value in (0, top):
            yield f"all {value} (2, 37), {bits} bits", bits, torch.full((2, 37), value, dtype=torch.uint8)


def check_round_trip_is_exact(codec: Codec) -> None:
    """What is packed can be unpacked: every width, every size, odd ones and empty ones too."""
    for name, bits, given in codes(codec):
        back = codec.decode(codec.encode(given, bits), bits, given.shape[1])
        expect(back.dtype == torch.uint8, f"{name}: decoded to {back.dtype}")
        expect(back.shape == given.shape and torch.equal(back, given), f"{name}: other codes come back")


def check_row_nbytes_is_what_is_stored(codec: Codec) -> None:
    """Sizes are told before a byte is written: ``encode`` returns uint8 (rows, row_nbytes)."""
    for name, bits, given in codes(codec):
        data = codec.encode(given, bits)
        wanted = (given.shape[0], codec.row_nbytes(given.shape[1], bits))
        expect(data.dtype == torch.uint8, f"{name}: encoded to {data.dtype}")
        expect(tuple(data.shape) == wanted, f"{name}: shape {tuple(data.shape)} where {wanted} is promised")


def check_rows_stand_alone(codec: Codec) -> None:
    """A row can be found without its neighbours: it has the bytes that it has alone."""
    for name, bits, given in codes(codec):
        data = codec.encode(given, bits)
        for row in range(given.shape[0]):
            alone = codec.encode(given[row : row + 1], bits)[0]
            expect(torch.equal(alone, data[row]), f"{name}: row {row} differs alone")


def check_codes_are_untouched(codec: Codec) -> None:
    """Packing is a pure function: neither the codes nor the bytes it is given change."""
    for name, bits, given in codes(codec):
        before = given.clone()
        data = codec.encode(given, bits)
        stored = data.clone()
        codec.decode(data, bits, given.shape[1]).fill_(1)
        data.fill_(0)
        expect(torch.equal(before, given), f"{name}: encode changed or shares the codes")
        expect(torch.equal(codec.encode(given, bits), stored), f"{name}: a second time gives other bytes")


def check_strides_do_not_matter(codec: Codec) -> None:
    """A transposed or thinned view packs like its copy."""
    for name, bits, given in codes(codec):
        wide = given.repeat_interleave(2, dim=1)[:, ::2]
        expect(torch.equal(codec.encode(wide, bits), codec.encode(given, bits)), f"{name}: a view packs differently")
