"""Clipping ranges of slices: largest magnitude, percentile, or least squared error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qcore.tensor.integer import affine_codes, affine_scale, symmetric_codes, symmetric_scale

if TYPE_CHECKING:
    from qcore.quantizers.config import IntConfig

__all__ = ["MSE_FRACTIONS", "find_bound", "find_range"]

MSE_FRACTIONS = torch.linspace(1.0, 1.0 / 32, 32).tolist()
"""Fractions of the largest magnitude that ``scale="mse"`` tries; the largest wins a tie."""


def find_bound(slices: Tensor, config: IntConfig) -> Tensor:
    """Return the symmetric clipping bound of each slice: float32 (..., n) to (..., 1)."""
    if slices.shape[-1] == 0:
        return slices.new_zeros(*slices.shape[:-1], 1)
    if config.scale == "percentile":
        return _upper(slices.abs(), config.percentile)
    largest = torch.maximum(slices.amax(dim=-1, keepdim=True), -slices.amin(dim=-1, keepdim=True))
    if config.scale == "mse":
        return _least_error(slices, -largest, largest, config.bits, symmetric=True)[1]
    return largest


def find_range(slices: Tensor, config: IntConfig) -> tuple[Tensor, Tensor]:
    """Return ``(low <= 0, high >= 0)`` of each slice: float32 (..., n) to (..., 1)."""
    if slices.shape[-1] == 0:
        empty = slices.new_zeros(*slices.shape[:-1], 1)
        return empty, empty
    if config.scale == "percentile":
        low, high = -_upper(-slices, config.percentile), _upper(slices, config.percentile)
    else:
        low, high = slices.amin(dim=-1, keepdim=True), slices.amax(dim=-1, keepdim=True)
    low, high = low.clamp_max(0.0), high.clamp_min(0.0)
    return _least_error(slices, low, high, config.bits, symmetric=False) if config.scale == "mse" else (low, high)


def _upper(values: Tensor, percentile: float) -> Tensor:
    count = values.shape[-1]
    above = count - min(count, max(1, round(percentile / 100 * count)))
    if above < count // 8:  # the same number, found several times faster
        return values.topk(above + 1, dim=-1, sorted=False).values.amin(dim=-1, keepdim=True)
    return values.kthvalue(count - above, dim=-1, keepdim=True).values


def _least_error(slices: Tensor, low: Tensor, high: Tensor, bits: int, *, symmetric: bool) -> tuple[Tensor, Tensor]:
    best_low, best_high = low, high
    best = torch.full_like(low, torch.inf, dtype=torch.float64)
    error = torch.empty_like(slices, dtype=torch.float64)  # float64: the square of a large error must not overflow
    for fraction in MSE_FRACTIONS:
        tried_low, tried_high = low * fraction, high * fraction
        torch.sub(_rounded(slices, tried_low, tried_high, bits, symmetric), slices, out=error)
        total = error.square_().sum(dim=-1, keepdim=True)
        better = total < best
        best = torch.where(better, total, best)
        best_low, best_high = torch.where(better, tried_low, best_low), torch.where(better, tried_high, best_high)
    return best_low, best_high


def _rounded(x: Tensor, low: Tensor, high: Tensor, bits: int, symmetric: bool) -> Tensor:
    if symmetric:
        scale, inverse = symmetric_scale(high, bits)
        return symmetric_codes(x, inverse, bits).mul_(scale)
    scale, inverse, zero = affine_scale(low, high, bits)
    return affine_codes(x, inverse, zero, bits).sub_(zero).mul_(scale)
