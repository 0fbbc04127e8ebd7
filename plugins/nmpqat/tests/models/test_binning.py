from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qcore_nmpqat.models.binning import BinnedTokens, bin_edges


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def bins_of(values: Tensor, edges: Tensor) -> Tensor:
    return torch.searchsorted(edges, values)


def test_bins_hold_equal_shares() -> None:
    values = normal(1003)
    edges = bin_edges(values, 10)
    assert len(edges) == 9 and (edges.diff() > 0).all()
    counts = torch.bincount(bins_of(values, edges), minlength=10)
    assert counts.min() >= 100 and counts.max() <= 101


@pytest.mark.parametrize("values", [[0.0, 1.0], [1.0] * 999 + [0.0], [0.0] * 999 + [1.0], [3.0, -1.0, 7.5, 3.0]])
def test_few_values_get_a_bin_each_however_rare(values: list[float]) -> None:
    x = torch.tensor(values)
    found = bins_of(x, bin_edges(x, 4))
    _, expected = torch.unique(x, return_inverse=True)
    assert torch.equal(found, expected)


def test_a_value_that_fills_several_bins_is_parted_from_larger_ones() -> None:
    x = torch.cat([torch.zeros(600), torch.linspace(1, 2, 400)])
    edges = bin_edges(x, 10)
    found = bins_of(x, edges)
    assert len(edges) < 9 and (found[:600] == 0).all() and (found[600:] > 0).all()


@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=60),
    st.integers(2, 12),
)
def test_edges_are_ascending_finite_and_few_for_any_numbers(values: list[float], bins: int) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    edges = bin_edges(x, bins)
    assert edges.dtype == torch.float32 and len(edges) < bins
    assert torch.isfinite(edges).all() and (edges.diff() > 0).all()
    distinct = torch.unique(x)
    if len(distinct) <= bins:
        assert bins_of(distinct, edges).tolist() == list(range(len(distinct)))


def test_neighbouring_floats_are_told_apart() -> None:
    x = torch.tensor([1.0, 1.0 + 2**-23])
    assert bins_of(x, bin_edges(x, 2)).tolist() == [0, 1]


def test_each_feature_and_bin_has_its_vector_and_outliers_the_outer_ones() -> None:
    tokens = BinnedTokens(2, 3, 4, torch.Generator().manual_seed(0))
    tokens.fit(torch.tensor([[0.0, 10.0], [1.0, 10.0], [2.0, 20.0]]))
    x = torch.tensor([[0.0, 20.0], [-99.0, 99.0], [99.0, -99.0], [1.4, float("nan")]])
    table = tokens.embedding.weight
    rows = [[0, 3 + 1], [0, 3 + 1], [2, 3 + 0], [1, 3 + 2]]
    assert torch.equal(tokens(x), torch.stack([table[row] for row in rows]))


def test_fitting_again_forgets_the_first_edges() -> None:
    one, other = (BinnedTokens(1, 8, 2, torch.Generator().manual_seed(0)) for _ in range(2))
    one.fit(normal(100, 1))
    for tokens in (one, other):
        tokens.fit(torch.tensor([[0.0], [1.0]]))
    assert torch.equal(one.edges, other.edges)
