"""Sums whose order is fixed, so that every backend gets the same bits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["BLOCK", "slice_sums"]

BLOCK = 128
"""Columns of the rows into which a slice is laid out."""


def slice_sums(x: Tensor) -> Tensor:
    """Return the sum of each slice of ``x`` (..., n): float64 (..., 1).

    It cannot overflow, and its order is fixed, so that kernels and torch agree bit for bit whatever the memory layout
    or the number of threads. Zeros, which change no sum, fill up a slice to rows of 128 columns:

    1. Neighbouring rows are added, the first to the second, the third to the fourth, and so on; a last row without a
       neighbour stays. This is done again until one row is left.
    2. The right half of that row is added to its left half, until one number is left.

    The error is below ``(8 + log2(n)) * 2**-53`` of the sum of the magnitudes.
    """
    if x.shape[-1] > BLOCK:
        x = _one_row(x)
    n, sums = x.shape[-1], x.to(torch.float64)
    while n > 1:
        half = 1 << (n - 1).bit_length() - 1  # of n rounded up to a power of two
        left = sums[..., :half]
        right = F.pad(sums[..., half:n], (0, 2 * half - n)) if n < 2 * half else sums[..., half:n]
        sums, n = left + right, half
    return sums if n else sums.new_zeros((*x.shape[:-1], 1))


def _one_row(x: Tensor) -> Tensor:
    padded = F.pad(x, (0, -x.shape[-1] % BLOCK)) if x.shape[-1] % BLOCK else x
    rows = padded.reshape(*padded.shape[:-1], padded.shape[-1] // BLOCK, BLOCK)
    while (count := rows.shape[-2]) > 1:
        paired = rows[..., 0 : count - 1 : 2, :].to(torch.float64).add(rows[..., 1:count:2, :])
        rows = torch.cat([paired, rows[..., -1:, :].to(torch.float64)], dim=-2) if count % 2 else paired
    return rows.squeeze(-2)
