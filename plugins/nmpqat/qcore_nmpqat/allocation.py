"""Widths of the arms that learn none: dealt out at random, a layer alike, or by the spread of the weights."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from qcore_nmpqat.quantizers.config import WidthConfig

__all__ = ["by_layer", "by_spread", "dealt_out", "narrow_or_widen"]

Widths = dict[str, Tensor]
"""int64 (neurons,) by the path of a layer."""


def dealt_out(learned: Mapping[str, Tensor], generator: torch.Generator) -> Widths:
    """Return the widths of ``learned``, each layer's dealt out anew among its neurons."""
    return {path: widths[torch.randperm(len(widths), generator=generator)] for path, widths in learned.items()}


def by_layer(spreads: Mapping[str, Tensor], counts: Mapping[str, int], choice: Sequence[int], budget: float) -> Widths:
    """Return one width a layer, the mean over weights at most ``budget``.

    From the lowest width on, the layer widens whose noise ``sum_j n sigma_j^2 / (3 4^b)`` falls most for a bit, while
    the mean stays within the budget.

    Args:
        spreads: variance of each neuron's weights, (neurons,), by layer.
        counts: weights a neuron, by layer.
        choice: the widths there are, rising.
        budget: mean bits a weight.
    """
    total = sum(counts[path] * len(spread) for path, spread in spreads.items())
    level = dict.fromkeys(spreads, 0)
    left = (budget - choice[0]) * total + 1e-6 * total
    while True:
        options = []
        for path, spread in spreads.items():
            if level[path] + 1 < len(choice):
                low, high = choice[level[path]], choice[level[path] + 1]
                cost = (high - low) * counts[path] * len(spread)
                gain = float(spread.double().sum()) * counts[path] * (4.0**-low - 4.0**-high)
                if cost <= left:
                    options.append((gain / cost, path, cost))
        if not options:
            return {path: torch.full((len(spread),), choice[level[path]]) for path, spread in spreads.items()}
        _, path, cost = max(options)
        level[path] += 1
        left -= cost


def by_spread(spreads: Mapping[str, Tensor], counts: Mapping[str, int], choice: Sequence[int], budget: float) -> Widths:
    """Return reverse water-filling at the mean width ``budget``, as far as ``choice`` allows.

    Noise ``n sigma_j^2 / (3 4^b)`` falls most for a bit where it is largest: the neurons widen in that order, one step
    at a time, while the mean over weights stays within the budget.

    Source: Varshney et al. 2026, arXiv:2605.25054, appendix B.4, from whose bound it follows.
    """
    paths = list(spreads)
    variance = torch.cat([spreads[path].double() for path in paths])
    weights = torch.cat([torch.full((len(spreads[path]),), float(counts[path])) for path in paths])
    levels = torch.zeros(len(variance), dtype=torch.int64)
    left = (budget - choice[0] + 1e-6) * float(weights.sum())
    queue = [(-_gain(float(v), choice, 0), number) for number, v in enumerate(variance) if len(choice) > 1]
    heapq.heapify(queue)
    while queue:
        _, number = heapq.heappop(queue)
        level = int(levels[number])
        cost = (choice[level + 1] - choice[level]) * float(weights[number])
        if cost > left:
            continue
        levels[number], left = level + 1, left - cost
        if level + 2 < len(choice):
            heapq.heappush(queue, (-_gain(float(variance[number]), choice, level + 1), number))
    widths = torch.tensor(list(choice))[levels]
    return dict(zip(paths, torch.split(widths, [len(spreads[path]) for path in paths]), strict=True))


def narrow_or_widen(
    strengths: Tensor, demand: Tensor, levels: Tensor, counts: Tensor, config: WidthConfig, budget: float
) -> Tensor:
    """Return levels, int64 (neurons,), whose mean width over weights is ``budget`` or just below.

    Args:
        strengths: of all neurons, (neurons,).
        demand: for a weight, which decides between equal strengths.
        levels: index of each neuron's width now.
        counts: weights of each neuron.
        config: the widths and thresholds.
        budget: mean bits a weight.
    """
    levels = levels.clone()
    widths, thresholds = config.widths, config.steps
    left = budget * float(counts.sum()) - float((torch.tensor(widths, device=levels.device)[levels] * counts).sum())
    rising = left >= 0
    queue = [entry for i in range(len(levels)) if (entry := _next(i, strengths, demand, levels, thresholds, rising))]
    heapq.heapify(queue)
    while queue and (rising or left < 0):
        _, _, i = heapq.heappop(queue)
        level = int(levels[i])
        cost = (widths[level + 1 if rising else level - 1] - widths[level]) * float(counts[i])
        if rising and cost > left:
            continue
        levels[i] += 1 if rising else -1
        left -= cost
        entry = _next(i, strengths, demand, levels, thresholds, rising)
        if entry:
            heapq.heappush(queue, entry)
    return levels


def _next(
    i: int, strengths: Tensor, demand: Tensor, levels: Tensor, thresholds: Sequence[float], rising: bool
) -> tuple[float, float, int] | None:
    level = int(levels[i])
    if rising:
        return None if level == len(thresholds) else (thresholds[level] - float(strengths[i]), -float(demand[i]), i)
    return None if level == 0 else (float(strengths[i]) - thresholds[level - 1], float(demand[i]), i)


def _gain(variance: float, choice: Sequence[int], level: int) -> float:
    low, high = choice[level], choice[level + 1]
    return variance * (4.0**-low - 4.0**-high) / (high - low)
