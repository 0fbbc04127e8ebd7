"""A layer's choices against all there are."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qcore_hetero_diffq.budget.frontier import Frontier, layer_frontier
from qcore_hetero_diffq.budget.knapsack import efficient

LEVELS = (1, 2, 3, 4)
COSTS = (2, 4, 6, 8)
BLOCK, ORDER = 5, 9


def losses(rows: int, seed: int) -> NDArray[np.float64]:
    """Return (rows, levels), of which each bit takes about three quarters."""
    drawn = np.random.default_rng(seed)
    return drawn.lognormal(0, 1.5, (rows, 1)) * 4.0 ** -np.arange(len(LEVELS)) * drawn.uniform(0.6, 1.4, (rows, 4))


def take(picks: NDArray[np.int64], lost: NDArray[np.float64], block: int, order: int) -> tuple[float, float]:
    several = len(np.unique(picks)) - 1
    cost = sum(COSTS[i] for i in picks) + several * block + (order if several else 0)
    return float(cost), float(sum(lost[row, i] for row, i in enumerate(picks)))


def all_choices(lost: NDArray[np.float64], block: int, order: int) -> NDArray[np.float64]:
    found = [take(np.array(p), lost, block, order) for p in product(range(len(LEVELS)), repeat=len(lost))]
    return np.array(found)


def found_of(lost: NDArray[np.float64], block: int = BLOCK, order: int = ORDER) -> Frontier:
    return layer_frontier(LEVELS, COSTS, lost, block_nbytes=block, order_nbytes=order)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 6), st.integers(0, 10**6), st.sampled_from([0, 5, 30]), st.sampled_from([0, 9]))
def test_choices_cost_and_lose_what_they_say(rows: int, seed: int, block: int, order: int) -> None:
    lost = losses(rows, seed)
    frontier = found_of(lost, block, order)
    assert frontier.levels.shape == (len(frontier.costs), rows)
    for levels, cost, loss in zip(frontier.levels, frontier.costs, frontier.losses, strict=True):
        expected = take(levels - 1, lost, block, order)
        assert (cost, loss) == (expected[0], pytest.approx(expected[1]))
    assert bool((np.diff(frontier.costs) > 0).all()) and bool((np.diff(frontier.losses) < 0).all())


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(0, 10**6), st.sampled_from([0, 5, 30]), st.sampled_from([0, 9]))
def test_it_begins_with_the_smallest_and_ends_with_the_most_accurate(
    rows: int, seed: int, block: int, order: int
) -> None:
    lost = losses(rows, seed)
    every = all_choices(lost, block, order)
    frontier = found_of(lost, block, order)
    assert frontier.costs[0] == every[:, 0].min()
    assert frontier.losses[-1] == pytest.approx(every[:, 1].min())


@pytest.mark.parametrize("block", [0, 5])
def test_where_bookkeeping_is_cheap_it_reaches_the_hull_of_all_choices(block: int) -> None:
    """Prices are tried, not all choices: now and then a point of the hull is missed, by less than a third."""
    ratios = []
    for seed in range(40):
        lost = losses(1 + seed % 5, seed)
        every = all_choices(lost, block, 0)
        frontier = found_of(lost, block, 0)
        hull = every[efficient(every[:, 0], every[:, 1], convex=True)]
        ratios += [frontier.losses[frontier.costs <= cost].min() / loss for cost, loss in hull]
    assert min(ratios) > 1 - 1e-9
    assert max(ratios) < 1.33 and np.mean(ratios) < 1.01


def test_two_levels_and_no_bookkeeping_are_solved_exactly() -> None:
    lost = losses(8, 3)[:, :2]
    frontier = layer_frontier((1, 2), COSTS[:2], lost, block_nbytes=0, order_nbytes=0)
    gains = np.sort(lost[:, 0] - lost[:, 1])[::-1]
    expected = lost[:, 0].sum() - np.concatenate([[0], np.cumsum(gains)])
    np.testing.assert_allclose(frontier.losses, expected)
    np.testing.assert_allclose(frontier.costs, 16 + 2 * np.arange(9))


def test_dear_bookkeeping_leaves_one_width_for_all() -> None:
    frontier = found_of(losses(6, 1), 1000, 1000)
    assert all(len(set(levels)) == 1 for levels in frontier.levels.tolist())
    assert len(frontier.costs) == 4


def test_a_level_that_loses_no_less_is_never_chosen() -> None:
    lost = np.tile([[1.0, 0.5, 0.5, 0.5]], (3, 1))
    assert set(np.unique(found_of(lost).levels)) == {1, 2}


def test_levels_of_one_cost_leave_the_better() -> None:
    lost = np.array([[3.0, 2.0, 1.0, 0.5]])
    frontier = layer_frontier(LEVELS, (1, 1, 1, 2), lost, block_nbytes=0, order_nbytes=0)
    assert frontier.levels.tolist() == [[3], [4]]


def test_rows_that_lose_nothing_cost_nothing() -> None:
    frontier = found_of(np.zeros((4, 4)))
    assert frontier.levels.tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows(rows: int) -> None:
    frontier = found_of(losses(rows, 0))
    assert frontier.levels.shape[1] == rows and len(frontier.costs) >= 1
