"""What a layer may become: choices of widths for its rows, from the smallest to the most accurate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from qcore_hetero_diffq.budget.knapsack import efficient

__all__ = ["Frontier", "layer_frontier"]

PRICES = 24
"""Prices of a byte that are tried for each set of widths."""
TOGETHER = 3
"""A layer has up to so many widths, or all of them."""


@dataclass(frozen=True)
class Frontier:
    """Choices for one layer, by rising cost.

    Attributes:
        levels: int64 (choices, rows).
        costs: bytes, float64 (choices,).
        losses: float64 (choices,).
    """

    levels: NDArray[np.int64]
    costs: NDArray[np.float64]
    losses: NDArray[np.float64]


def layer_frontier(
    levels: Sequence[int],
    row_costs: Sequence[int],
    losses: NDArray[np.float64],
    *,
    block_nbytes: int,
    order_nbytes: int,
) -> Frontier:
    """Return the choices that no other beats.

    For each set of a few levels and each of several prices of a byte, every row takes the level of least loss plus
    price. A set that does not pay for its bookkeeping drops out.

    Args:
        levels: what a row chooses among, rising.
        row_costs: bytes of a row at each level.
        losses: (rows, levels).
        block_nbytes: what a second width, and each further one, costs in a file beside its codes.
        order_nbytes: what it costs to say which row has which width.
    """
    costs = np.asarray(row_costs, dtype=np.float64)
    prices = _prices(costs, losses)
    chosen: list[NDArray[np.int64]] = []
    for columns in _subsets(len(levels)):
        if len(columns) == 1:
            chosen.append(np.full((1, losses.shape[0]), columns[0]))
            continue
        part = losses[None, :, columns] + prices[:, None, None] * costs[columns]
        chosen.append(np.asarray(columns)[part.argmin(axis=2)])
    picks = np.unique(np.concatenate(chosen), axis=0)
    widths = np.sum([(picks == column).any(axis=1) for column in range(len(levels))], axis=0)
    total = costs[picks].sum(axis=1) + (widths - 1) * block_nbytes + (widths > 1) * order_nbytes
    lost = np.take_along_axis(losses, picks.T, axis=1).sum(axis=0)
    kept = efficient(total, lost)
    return Frontier(np.asarray(levels, dtype=np.int64)[picks[kept]], total[kept], lost[kept])


def _subsets(count: int) -> Iterator[list[int]]:
    for size in range(1, min(TOGETHER, count) + 1):
        yield from (list(columns) for columns in combinations(range(count), size))
    if count > TOGETHER:
        yield list(range(count))


def _prices(costs: NDArray[np.float64], losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return prices at which rows change their level, spread over what is found."""
    extra = np.diff(costs)
    saved = -np.diff(losses, axis=1)[:, extra > 0] / extra[extra > 0]
    worth = saved[saved > 0]
    if not worth.size:
        return np.zeros(1)
    return np.unique(np.quantile(worth, np.linspace(0, 1, PRICES)) * (1 + 1e-9))
