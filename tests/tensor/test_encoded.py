"""Encoded: what codes and scales mean."""

from __future__ import annotations

import pytest
import torch

from qcore.tensor import Encoded
from qcore.tensor.encoded import ENCODINGS, codec_of, largest_code, offset_and_step, stored_range


def encoded(codes: list[list[float]], scale: list[list[float]], **options: object) -> Encoded:
    values = torch.tensor(codes, dtype=torch.float32)
    given = {"shape": values.shape, "dtype": torch.float32, "encoding": "int", "bits": 4} | options
    return Encoded(values, torch.tensor(scale), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("encoding", "bits", "codes"),
    [
        ("int", 2, [-2, -1, 0, 1]),
        ("uint", 2, [0, 1, 2, 3]),
        ("ternary", 2, [-1, 0, 1]),
        ("odd", 1, [-1, 1]),
        ("symmetric", 1, [-1, 1]),
        ("symmetric", 2, [-1, 0, 1]),
        ("symmetric", 3, [-3, -2, -1, 0, 1, 2, 3]),
        ("symmetric", 8, list(range(-127, 128))),
    ],
)
def test_an_encoding_maps_stored_codes_to_the_documented_integers(encoding: str, bits: int, codes: list[int]) -> None:
    step, offset = offset_and_step(encoding, bits)
    low, high = stored_range(encoding, bits)
    assert [step * stored + offset for stored in range(low, high + 1)] == codes
    assert largest_code(encoding, bits) == max(map(abs, codes))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_largest_code_is_that_of_an_end_and_grows_with_the_width(encoding: str) -> None:
    widths = (2,) if encoding == "ternary" else range(1, 9)
    largest = []
    for bits in widths:
        step, offset = offset_and_step(encoding, bits)
        largest.append(max(abs(step * stored + offset) for stored in stored_range(encoding, bits)))
    assert largest == [largest_code(encoding, bits) for bits in widths]
    assert largest == sorted(largest)


def test_codes_of_three_values_are_stored_as_trits() -> None:
    assert [codec_of("symmetric", bits) for bits in (1, 2, 3)] == ["packn@1", "trit5@1", "packn@1"]
    assert (codec_of("ternary", 2), codec_of("int", 2)) == ("trit5@1", "packn@1")


def test_a_value_is_code_less_zero_point_times_scale() -> None:
    x = encoded([[0, 5, 15]], [[0.5]], encoding="uint", zero_point=torch.tensor([[5.0]]))
    assert x.centred().tolist() == [[-5, 0, 10]]
    assert x.decode().tolist() == [[-2.5, 0, 5]]


def test_a_group_of_columns_has_its_own_scale_also_where_the_last_group_is_short() -> None:
    x = encoded([[1, 1, 1, 1, 1]], [[1.0, 2.0, 3.0]], group_size=2)
    assert x.decode().tolist() == [[1, 1, 2, 2, 3]]
    even = encoded([[1, 1, 1, 1]], [[1.0, 2.0]], group_size=2, encoding="uint", zero_point=torch.tensor([[0.0, 3.0]]))
    assert even.decode().tolist() == [[1, 1, -4, -4]]


def test_decoding_in_place_gives_the_same_numbers() -> None:
    for options in ({}, {"encoding": "uint", "zero_point": torch.tensor([[3.0]])}, {"group_size": 2}):
        scale = [[0.3, 0.7]] if "group_size" in options else [[0.3]]
        x = encoded([[1, -7, 5, 2]], scale, **options)
        expected = x.decode()
        assert torch.equal(x.decode_(), expected)


def test_decoding_leaves_the_codes_alone() -> None:
    x = encoded([[1, -7, 5, 2]], [[0.3]])
    before = x.codes.clone()
    x.decode()
    assert torch.equal(x.codes, before)


def test_the_product_is_taken_in_float32_and_rounded_once_to_the_dtype() -> None:
    x = encoded([[3]], [[0.1]], dtype=torch.bfloat16)
    assert torch.equal(x.decode(), (torch.tensor([[3.0]]) * torch.tensor([[0.1]])).bfloat16())


def test_a_zero_point_never_makes_an_infinity() -> None:
    # Two bits from -3e38 to 3e38: the step is 2e38 and the zero point 2, so that code 0 would be -4e38.
    for dtype, scale in ((torch.float32, 2e38), (torch.bfloat16, 2e38), (torch.float16, 6e4)):
        x = encoded([[0, 3]], [[scale]], encoding="uint", bits=2, dtype=dtype, zero_point=torch.tensor([[2.0]]))
        assert x.decode()[0, 0] == torch.finfo(dtype).min
