"""The multiple-choice knapsack against brute force."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from qcore_hetero_diffq.budget.knapsack import choose, efficient

Floats = NDArray[np.float64]
Classes = list[tuple[Floats, Floats]]

options = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 60)), min_size=1, max_size=5).map(
    lambda pairs: tuple(np.array(column, dtype=np.float64) for column in zip(*pairs, strict=True))
)
classes = st.lists(options, min_size=1, max_size=5)


def brute(found: Classes, capacity: float) -> float | None:
    """Return the least loss that fits; None if nothing does."""
    best = None
    for picks in product(*(range(len(cost)) for cost, _ in found)):
        if sum(cost[i] for (cost, _), i in zip(found, picks, strict=True)) <= capacity:
            lost = sum(loss[i] for (_, loss), i in zip(found, picks, strict=True))
            best = lost if best is None else min(best, lost)
    return best


def largest_upgrade(found: Classes) -> float:
    """Return what the largest step along any class's convex hull saves: the bound."""
    steps = [-np.diff(loss[efficient(cost, loss, convex=True)]) for cost, loss in found]
    return max((float(step.max()) for step in steps if step.size), default=0.0)


@settings(deadline=None, max_examples=200)
@given(classes, st.integers(0, 150))
def test_it_fits_whenever_anything_does_and_is_close_to_the_best(found: Classes, capacity: int) -> None:
    best = brute(found, capacity)
    chosen = choose([cost for cost, _ in found], [loss for _, loss in found], capacity)
    assert (chosen is None) == (best is None)
    if chosen is None or best is None:
        return
    taken = sum(cost[i] for (cost, _), i in zip(found, chosen, strict=True))
    lost = sum(loss[i] for (_, loss), i in zip(found, chosen, strict=True))
    assert taken <= capacity
    assert best <= lost <= best + largest_upgrade(found)


@settings(deadline=None, max_examples=200)
@given(classes, st.integers(0, 150))
def test_no_single_change_that_fits_would_be_better(found: Classes, capacity: int) -> None:
    chosen = choose([cost for cost, _ in found], [loss for _, loss in found], capacity)
    if chosen is None:
        return
    left = capacity - sum(cost[i] for (cost, _), i in zip(found, chosen, strict=True))
    for (cost, loss), i in zip(found, chosen, strict=True):
        assert not bool(((cost - cost[i] <= left) & (loss < loss[i])).any())


@settings(deadline=None)
@given(classes)
def test_with_room_for_all_it_loses_least(found: Classes) -> None:
    chosen = choose([cost for cost, _ in found], [loss for _, loss in found], 1e9)
    assert chosen is not None
    assert all(loss[i] == loss.min() for (_, loss), i in zip(found, chosen, strict=True))


@settings(deadline=None)
@given(classes)
def test_the_cheapest_fit_exactly(found: Classes) -> None:
    least = sum(cost.min() for cost, _ in found)
    costs, losses = [cost for cost, _ in found], [loss for _, loss in found]
    assert choose(costs, losses, least) is not None
    assert choose(costs, losses, least - 0.5) is None


@settings(deadline=None)
@given(options)
def test_efficient_options_are_those_that_no_other_beats(found: tuple[Floats, Floats]) -> None:
    cost, loss = found
    kept = efficient(cost, loss)
    assert bool((np.diff(cost[kept]) > 0).all()) and bool((np.diff(loss[kept]) < 0).all())
    for i in range(len(cost)):
        beaten = [k for k in kept if cost[k] <= cost[i] and loss[k] <= loss[i]]
        assert beaten, "each option is kept, or one that is as good is"


@settings(deadline=None)
@given(options)
def test_the_hull_has_falling_slopes_and_leaves_nothing_below_it(found: tuple[Floats, Floats]) -> None:
    cost, loss = found
    hull = efficient(cost, loss, convex=True)
    slopes = -np.diff(loss[hull]) / np.diff(cost[hull])
    assert bool((np.diff(slopes) < 1e-9).all())
    inside = (cost >= cost[hull[0]]) & (cost <= cost[hull[-1]])
    below = np.interp(cost, cost[hull], loss[hull]) - loss
    assert float(below[inside].max()) <= 1e-9
    assert loss[hull[-1]] == loss.min() and cost[hull[0]] == cost.min()


def test_ties_take_the_cheaper() -> None:
    cost, loss = np.array([3.0, 1.0, 2.0]), np.array([5.0, 5.0, 5.0])
    assert efficient(cost, loss).tolist() == [1]
    assert choose([cost], [loss], 10) == [1]


def test_nothing_to_choose() -> None:
    assert choose([], [], 0) == []
    assert choose([], [], -1) is None


@pytest.mark.parametrize("capacity", [0.0, 7.0, 7.5, 100.0])
def test_a_loss_of_nothing_costs_nothing(capacity: float) -> None:
    assert choose([np.array([0.0, 7.0])], [np.zeros(2)], capacity) == [0]
