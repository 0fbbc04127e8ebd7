from __future__ import annotations

import math

import pytest
import torch

from qcore.tensor.sums import BLOCK, slice_sums


def by_definition(values: list[float]) -> float:
    """The order of the docstring, with Python's numbers."""
    values = values + [0.0] * (-len(values) % BLOCK)
    rows = [values[i : i + BLOCK] for i in range(0, len(values), BLOCK)]
    while len(rows) > 1:
        pairs = [[a + b for a, b in zip(*rows[i : i + 2], strict=True)] for i in range(0, len(rows) - 1, 2)]
        rows = pairs + rows[len(pairs) * 2 :]
    row = rows[0] if rows else [0.0]
    while len(row) > 1:
        row = [a + b for a, b in zip(row[: len(row) // 2], row[len(row) // 2 :], strict=True)]
    return row[0]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 64, 127, 128, 129, 255, 384, 641, 1000, 4096, 5000])
def test_the_order_is_that_of_the_definition(n: int) -> None:
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(n)) * torch.logspace(-20, 20, n)
    assert slice_sums(x).reshape(-1).tolist() == [by_definition(row) for row in x.tolist()]


def test_it_sums_the_last_axis_of_any_shape_in_float64() -> None:
    x = torch.full((2, 3, 300), 3e38)
    sums = slice_sums(x)
    assert sums.shape == (2, 3, 1) and sums.dtype == torch.float64
    assert torch.equal(sums, (x[..., :1].double() * 300))
    assert slice_sums(torch.empty(2, 3, 0)).tolist() == [[[0.0]] * 3] * 2


def test_memory_layout_does_not_matter() -> None:
    x = torch.randn(257, 129, generator=torch.Generator().manual_seed(0))
    assert torch.equal(slice_sums(x.t().contiguous().t()), slice_sums(x))


def test_the_error_is_within_its_bound() -> None:
    x = torch.randn(1, 100_000, generator=torch.Generator().manual_seed(0)) * torch.logspace(-9, 9, 100_000)
    bound = (8 + math.log2(x.numel())) * 2.0**-53 * math.fsum(x.abs().flatten().tolist())
    assert abs(float(slice_sums(x)) - math.fsum(x.flatten().tolist())) <= bound


def test_nan_and_infinity_show() -> None:
    x = torch.ones(2, 1000)
    x[0, 999], x[1, 0] = torch.nan, torch.inf
    assert not torch.isfinite(slice_sums(x)).any()
