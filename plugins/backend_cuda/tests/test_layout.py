from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcore_backend_cuda.layout import LANES, choose_lanes, chunk_cols, planes, row_nbytes, steps, to_lanes


def from_lanes(data: torch.Tensor, bits: int, lanes: int, cols: int) -> torch.Tensor:
    """The inverse by the words of the layout's description, one code at a time."""
    rows, count = data.shape[0], bits * steps(bits) // 8
    codes = torch.zeros(rows, cols, dtype=torch.int64)
    for col in range(cols):
        chunk, within = divmod(col, chunk_cols(bits, lanes))
        step, lane = divmod(within, lanes)
        first, low = 0, 0
        for width in planes(bits):
            at = chunk * lanes * count + (first + step * width // 8) * lanes + lane
            codes[:, col] |= ((data[:, at].long() >> (step * width % 8)) & ((1 << width) - 1)) << low
            first, low = first + width * steps(bits) // 8, low + width
    return codes ^ 128 if bits == 8 else codes


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_code_lies_where_the_layout_says(bits: int) -> None:
    for lanes in LANES:
        for cols in (1, lanes, chunk_cols(bits, lanes), chunk_cols(bits, lanes) + 7):
            codes = torch.randint(0, 1 << bits, (3, cols), dtype=torch.uint8)
            data = to_lanes(codes, bits, lanes)
            assert data.shape == (3, row_nbytes(cols, bits, lanes)) and data.dtype == torch.uint8
            assert torch.equal(from_lanes(data, bits, lanes, cols), codes.long())


@given(cols=st.integers(1, 20_000), bits=st.integers(1, 8))
def test_no_more_bytes_than_the_codes_but_to_fill_up_a_chunk(cols: int, bits: int) -> None:
    lanes = choose_lanes(cols, (bits,))
    nbytes = row_nbytes(cols, bits, lanes)
    assert nbytes * 8 >= cols * bits
    assert nbytes <= 1.07 * row_nbytes(max(cols, chunk_cols(bits, 32)), bits, 32)
    assert nbytes % 16 == 0  # a row starts where 16 bytes can be loaded at once


def test_lanes_fit_the_groups_of_columns() -> None:
    assert choose_lanes(4096, (4,), 128) == 128
    assert choose_lanes(4096, (4,), 64) == 64
    assert choose_lanes(4096, (4,), 96) == 32
