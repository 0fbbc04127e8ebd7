"""What a layer's weights would lose at each level, with the best step for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcore.tensor.integer import TINY
from qcore_hetero_diffq.quantizers.levels import BINARY, largest_codes

__all__ = ["Candidates", "weight_candidates"]

RATIOS = (1.0, 0.93, 0.86, 0.8, 0.74, 0.68, 0.62, 0.56, 0.5, 0.44, 0.38, 0.32, 0.26, 0.2)
"""Shares of a slice's largest magnitude at which its range is tried; and the learned range."""


@dataclass(frozen=True)
class Candidates:
    """Levels for the rows of a weight.

    Attributes:
        levels: which, rising.
        steps: float32 (levels, rows or 1, groups or 1), the step of least squared error.
        errors: float64 (rows or 1, levels), the squared error of a row with it.
    """

    levels: tuple[int, ...]
    steps: Tensor
    errors: Tensor


@torch.no_grad()
def weight_candidates(slices: Tensor, learned: Tensor, levels: tuple[int, ...]) -> Candidates:
    """Return what each of ``levels`` would lose.

    Args:
        slices: the weight, float32 (rows, groups, n).
        learned: the range of each slice, float32 (rows, groups).
        levels: rising.
    """
    peak = torch.maximum(slices.amax(dim=-1), -slices.amin(dim=-1))
    ranges = [peak * ratio for ratio in RATIOS] + [torch.minimum(learned, peak)]
    found = [_binary(slices) if level == BINARY else _best(slices, ranges, level) for level in levels]
    errors = torch.stack([error.sum(dim=1) for _, error in found], dim=1)
    return Candidates(levels, torch.stack([step for step, _ in found]), errors)


def _binary(slices: Tensor) -> tuple[Tensor, Tensor]:
    step = slices.abs().mean(dim=-1, dtype=torch.float64).float().clamp_min(TINY)
    error = (slices.abs() - step.unsqueeze(-1)).double().square().sum(dim=-1)
    return step, error


def _best(slices: Tensor, ranges: list[Tensor], level: int) -> tuple[Tensor, Tensor]:
    top = float(largest_codes(torch.tensor(level)))
    best_step, best = ranges[0] / top, torch.full_like(ranges[0], torch.inf, dtype=torch.float64)
    for range in ranges:
        step = (range / top).clamp_min(TINY)
        codes = (slices * step.reciprocal().unsqueeze(-1)).round_().clamp_(-top, top)
        error = codes.mul_(step.unsqueeze(-1)).sub_(slices).double().square_().sum(dim=-1)
        better = error < best
        best_step, best = torch.where(better, step, best_step), torch.where(better, error, best)
    return best_step, best
