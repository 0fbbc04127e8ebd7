"""Codecs: the bytes are those that are documented, and nothing is lost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcore.tensor.codecs import CODECS

PACKN, TRIT5 = CODECS["packn@1"], CODECS["trit5@1"]


def uint8(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.uint8)


def random_codes(seed: int, rows: int, cols: int, top: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, top + 1, (rows, cols), generator=generator, dtype=torch.uint8)


# Worked out by hand from the layouts in qcore/tensor/codecs.py. These bytes are in files: they never change.
GOLDEN = [
    ("packn@1", 1, [1, 0, 1, 1, 0, 0, 0, 1, 1], "8d01"),  # 1 + 4 + 8 + 128
    ("packn@1", 2, [0, 1, 2, 3, 1], "e401"),  # 1 << 2 | 2 << 4 | 3 << 6
    ("packn@1", 3, [0, 1, 2, 3, 4, 5, 6, 7], "88c6fa"),  # the sum of i * 8**i is 0xfac688
    ("packn@1", 3, [7, 7, 7], "ff01"),
    ("packn@1", 4, [1, 2, 15, 0, 7], "210f07"),
    ("packn@1", 5, [31, 0, 1, 16], "1f0408"),  # 31 + 2**10 + 2**19
    ("packn@1", 6, [63, 1, 32], "7f0002"),  # 63 + 2**6 + 2**17
    ("packn@1", 7, [127, 64, 1], "7f6000"),  # 127 + 2**13 + 2**14
    ("packn@1", 8, [0, 255, 18], "00ff12"),
    ("trit5@1", 2, [0, 1, 2, 0, 1, 2, 2], "6608"),  # 3 + 18 + 81, then 2 + 6
    ("trit5@1", 2, [2, 2, 2, 2, 2], "f2"),  # 242
    ("trit5@1", 2, [1], "01"),
]


@pytest.mark.parametrize(("codec", "bits", "codes", "data"), GOLDEN)
def test_codes_become_the_documented_bytes_and_back(codec: str, bits: int, codes: list[int], data: str) -> None:
    encoded = CODECS[codec].encode(uint8(codes), bits)
    assert bytes(encoded.flatten().tolist()).hex() == data
    stored = uint8(list(bytes.fromhex(data)))
    assert CODECS[codec].decode(stored, bits, len(codes)).tolist() == [codes]


def test_each_row_starts_on_a_byte_of_its_own() -> None:
    encoded = PACKN.encode(uint8([1, 2, 3], [4, 5, 6]), 3)
    assert [bytes(row).hex() for row in encoded.tolist()] == ["d100", "ac01"]  # 1 + 16 + 192; 4 + 40 + 384
    assert TRIT5.encode(uint8([2, 1], [0, 2]), 2).tolist() == [[5], [6]]


@given(seed=st.integers(0, 2**32), bits=st.integers(1, 8), rows=st.integers(0, 4), cols=st.integers(0, 70))
def test_packn_gives_back_every_code_of_every_width_and_size(seed: int, bits: int, rows: int, cols: int) -> None:
    codes = random_codes(seed, rows, cols, (1 << bits) - 1)
    before = codes.clone()
    data = PACKN.encode(codes, bits)
    assert (data.dtype, data.shape) == (torch.uint8, (rows, PACKN.row_nbytes(cols, bits)))
    assert torch.equal(PACKN.decode(data, bits, cols), before)
    assert torch.equal(codes, before)


@given(seed=st.integers(0, 2**32), rows=st.integers(0, 4), cols=st.integers(0, 70))
def test_trit5_gives_back_every_trit_of_every_size(seed: int, rows: int, cols: int) -> None:
    codes = random_codes(seed, rows, cols, 2)
    data = TRIT5.encode(codes, 2)
    assert (data.dtype, data.shape) == (torch.uint8, (rows, TRIT5.row_nbytes(cols, 2)))
    assert torch.equal(TRIT5.decode(data, 2, cols), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_smallest_and_the_largest_codes_survive(bits: int) -> None:
    for value in (0, (1 << bits) - 1):
        codes = torch.full((3, 37), value, dtype=torch.uint8)
        assert torch.equal(PACKN.decode(PACKN.encode(codes, bits), bits, 37), codes)


def test_a_row_takes_the_bytes_that_its_width_promises() -> None:
    assert [PACKN.row_nbytes(1536, bits) for bits in (1, 2, 3, 4, 8)] == [192, 384, 576, 768, 1536]
    assert PACKN.row_nbytes(5, 3) == 2
    assert [TRIT5.row_nbytes(cols, 2) for cols in (0, 1, 5, 6, 1536)] == [0, 1, 1, 2, 308]


def test_unused_bits_at_the_end_of_a_row_are_zero() -> None:
    assert PACKN.encode(uint8([7]), 3).tolist() == [[7]]
    assert TRIT5.encode(uint8([2]), 2).tolist() == [[2]]


def test_the_largest_code_is_told() -> None:
    assert [PACKN.largest(bits) for bits in (1, 4, 8)] == [1, 15, 255]
    assert TRIT5.largest(2) == 2
