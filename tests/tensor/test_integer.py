"""From floats to codes: each documented step, in numpy's float32, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcore.tensor.integer import (
    TINY,
    affine_codes,
    affine_scale,
    as_tokens,
    grouped,
    symmetric_codes,
    symmetric_scale,
    ungrouped,
)

F32 = np.float32
finite = st.floats(allow_nan=False, allow_infinity=False, width=32)


@given(x=st.lists(finite, min_size=1, max_size=30), bits=st.integers(2, 8))
def test_symmetric_codes_follow_the_documented_steps(x: list[float], bits: int) -> None:
    values, q = np.array(x, dtype=F32), F32((1 << (bits - 1)) - 1)
    c = np.maximum(np.abs(values).max(), F32(TINY))
    expected_scale = np.minimum(c / q, F32((2.0**128 - 2.0**106) / float(q)))
    with np.errstate(over="ignore"):
        expected = np.clip(np.round(values * (q / c)), -q, q)
    scale, inverse = symmetric_scale(torch.tensor(values).abs().max(), bits)
    assert scale.numpy() == expected_scale
    assert np.array_equal(symmetric_codes(torch.tensor(values), inverse, bits).numpy(), expected)


@given(x=st.lists(finite, min_size=1, max_size=30), bits=st.integers(2, 8))
def test_affine_codes_follow_the_documented_steps(x: list[float], bits: int) -> None:
    values, q = np.array(x, dtype=F32), F32((1 << bits) - 1)
    low, high = np.minimum(values.min(), F32(0)), np.maximum(values.max(), F32(0))
    expected_scale = np.maximum(high / q - low / q, F32(TINY))
    inverse = F32(1) / expected_scale
    expected_zero = np.clip(np.round(-low * inverse), F32(0), q)
    expected = np.clip(np.round(values * inverse) + expected_zero, F32(0), q)
    scale, scale_inverse, zero = affine_scale(torch.tensor(low), torch.tensor(high), bits)
    assert (scale.numpy(), zero.numpy()) == (expected_scale, expected_zero)
    assert np.array_equal(affine_codes(torch.tensor(values), scale_inverse, zero, bits).numpy(), expected)


def test_the_inverse_is_one_division_and_not_a_rounded_reciprocal_times_q() -> None:
    bound = torch.rand(5000, generator=torch.Generator().manual_seed(0)) + 0.01
    _, inverse = symmetric_scale(bound, 8)
    assert np.array_equal(inverse.numpy(), F32(127) / bound.numpy())
    assert not torch.equal(inverse, 127 / bound)  # what torch makes of a number divided by a tensor


def test_ties_go_to_the_even_code() -> None:
    codes = symmetric_codes(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]), torch.tensor(1.0), 8)
    assert codes.tolist() == [0, 2, 2, 0, -2]


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_largest_float_does_not_overflow(bits: int) -> None:
    bound = torch.tensor(torch.finfo(torch.float32).max)
    scale, inverse = symmetric_scale(bound, bits)
    code = symmetric_codes(bound, inverse, bits)
    assert code == (1 << (bits - 1)) - 1
    assert torch.isfinite(code * scale)


def test_a_slice_of_zeros_has_finite_scales_and_zero_codes() -> None:
    zeros = torch.zeros(1)
    scale, inverse = symmetric_scale(zeros, 8)
    assert torch.isfinite(inverse).all()
    assert scale > 0
    assert symmetric_codes(zeros, inverse, 8) == 0
    scale, inverse, zero = affine_scale(zeros, zeros, 8)
    assert torch.isfinite(inverse).all()
    assert zero == 0
    assert affine_codes(zeros, inverse, zero, 8) == 0


def test_neither_the_input_nor_the_bounds_are_written_to() -> None:
    x, bound = torch.tensor([0.3, -0.7]), torch.tensor([0.7])
    scale, inverse = symmetric_scale(bound, 4)
    symmetric_codes(x, inverse, 4)
    _, affine_inverse, zero = affine_scale(-bound, bound, 4)
    affine_codes(x, affine_inverse, zero, 4)
    assert torch.equal(x, torch.tensor([0.3, -0.7]))
    assert torch.equal(bound, torch.tensor([0.7]))


@given(rows=st.integers(0, 4), cols=st.integers(0, 12), size=st.integers(1, 7))
def test_groups_fill_up_with_zeros_and_come_off_again(rows: int, cols: int, size: int) -> None:
    x = torch.arange(1.0, rows * cols + 1).reshape(rows, cols)
    groups = grouped(x, size)
    assert groups.shape == (rows, -(-cols // size), size)
    assert groups.sum() == x.sum()
    assert torch.equal(ungrouped(groups, cols), x)


def test_tokens_are_the_rows_of_the_last_axis() -> None:
    assert as_tokens(torch.zeros(2, 3, 4)).shape == (6, 4)
    assert as_tokens(torch.zeros(4)).shape == (1, 4)
    assert as_tokens(torch.zeros(())).shape == (1, 1)
    assert as_tokens(torch.zeros(5, 0)).shape == (5, 0)
    assert as_tokens(torch.zeros(0, 5)).shape == (0, 5)
