"""The multiple-choice knapsack: one option of each class, the least loss that fits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["choose", "efficient"]

Floats = NDArray[np.float64]


def choose(costs: Sequence[Floats], losses: Sequence[Floats], capacity: float) -> list[int] | None:
    """Return the index of the option chosen in each class, or None if not even the cheapest options fit.

    First the relaxed problem's optimum, upgrades along the convex hulls in the order of what they save a byte, as far
    as they fit; then whatever single change saves most, while one fits. The loss is above the optimum's by no more than
    the largest upgrade's that did not fit (Sinha and Zoltners 1979, The Multiple-Choice Knapsack Problem).

    Args:
        costs: of each class, what its options cost.
        losses: of each class, what they lose.
        capacity: what all chosen options together may cost.
    """
    hulls = [efficient(cost, loss, convex=True) for cost, loss in zip(costs, losses, strict=True)]
    chosen = [int(hull[0]) for hull in hulls]
    left = capacity - sum(float(cost[i]) for cost, i in zip(costs, chosen, strict=True))
    if left < 0:
        return None
    left = _along_hulls(costs, losses, hulls, chosen, left)
    _fill(costs, losses, chosen, left)
    return chosen


def efficient(cost: Floats, loss: Floats, *, convex: bool = False) -> NDArray[np.int64]:
    """Return the options that no other beats in cost and loss, by rising cost.

    Args:
        cost: of each option.
        loss: of each option.
        convex: leave out those above the line between two others as well.
    """
    kept: list[int] = []
    for i in np.lexsort((loss, cost)):
        if kept and loss[i] >= loss[kept[-1]]:
            continue
        while convex and len(kept) > 1 and _is_above(cost, loss, kept[-2], kept[-1], int(i)):
            kept.pop()
        kept.append(int(i))
    return np.asarray(kept, dtype=np.int64)


def _is_above(cost: Floats, loss: Floats, a: int, b: int, c: int) -> bool:
    """Return whether ``b`` lies on or above the line from ``a`` to ``c``."""
    return bool((loss[a] - loss[b]) * (cost[c] - cost[a]) <= (loss[a] - loss[c]) * (cost[b] - cost[a]))


def _along_hulls(
    costs: Sequence[Floats],
    losses: Sequence[Floats],
    hulls: Sequence[NDArray[np.int64]],
    chosen: list[int],
    left: float,
) -> float:
    upgrades = []
    for k, hull in enumerate(hulls):
        extra, saved = np.diff(costs[k][hull]), -np.diff(losses[k][hull])
        upgrades += [(-saved[j] / extra[j], k, j + 1, extra[j]) for j in range(len(extra))]
    blocked: set[int] = set()
    for _, k, j, extra in sorted(upgrades):
        if k in blocked or extra > left:
            blocked.add(k)
            continue
        chosen[k], left = int(hulls[k][j]), left - float(extra)
    return left


def _fill(costs: Sequence[Floats], losses: Sequence[Floats], chosen: list[int], left: float) -> None:
    best = [_best_change(costs[k], losses[k], chosen[k], left) for k in range(len(chosen))]
    while best:
        k = int(np.argmax([saved for saved, _ in best]))
        saved, option = best[k]
        if saved <= 0:
            return
        if costs[k][option] - costs[k][chosen[k]] > left:  # it was found when more was left
            best[k] = _best_change(costs[k], losses[k], chosen[k], left)
            continue
        left -= float(costs[k][option] - costs[k][chosen[k]])
        chosen[k] = option
        best[k] = _best_change(costs[k], losses[k], option, left)


def _best_change(cost: Floats, loss: Floats, current: int, left: float) -> tuple[float, int]:
    fits = cost - cost[current] <= left
    saved = np.where(fits, loss[current] - loss, -np.inf)
    option = int(np.argmax(saved))
    return float(saved[option]), option
