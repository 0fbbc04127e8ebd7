"""From floats to integer codes: the order of the operations that every quantizer and kernel follows.

Symmetric, ``q = 2**(bits-1) - 1``, for the clipping bound ``c`` of a slice:

1. ``c = max(c, 2**-100)``
2. ``inverse = q / c``                     (one float32 division a slice)
3. ``code = clamp(round(x * inverse), -q, q)``  (ties to even)
4. ``scale = c / q``

Affine, ``q = 2**bits - 1``, for the range ``low <= 0 <= high`` of a slice:

1. ``scale = max(high / q - low / q, 2**-100)``
2. ``inverse = 1 / scale``
3. ``zero_point = clamp(round(-low * inverse), 0, q)``
4. ``code = clamp(round(x * inverse) + zero_point, 0, q)``

Everything is float32. A slice of zeros has code 0 (or its zero point) everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["TINY", "affine_codes", "affine_scale", "grouped", "symmetric_codes", "symmetric_scale", "ungrouped"]

TINY = 2.0**-100
"""Slices whose largest magnitude is below this are stored as zeros; it keeps ``q / c`` finite."""


def symmetric_scale(bound: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return ``(scale, inverse)`` of the clipping ``bound``, float32, any shape."""
    q = (1 << (bits - 1)) - 1
    bound = bound.clamp_min(TINY)
    return bound / q, q / bound


def symmetric_codes(x: Tensor, inverse: Tensor, bits: int) -> Tensor:
    """Return the codes of float32 ``x``; ``inverse`` broadcasts against it."""
    q = (1 << (bits - 1)) - 1
    return torch.round(x * inverse).clamp(-q, q)


def affine_scale(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``(scale, inverse, zero_point)`` of the range from ``low <= 0`` to ``high >= 0``."""
    q = (1 << bits) - 1
    scale = (high / q - low / q).clamp_min(TINY)
    inverse = 1.0 / scale
    return scale, inverse, torch.round(-low * inverse).clamp(0, q)


def affine_codes(x: Tensor, inverse: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Return the codes of float32 ``x``; the other tensors broadcast against it."""
    return (torch.round(x * inverse) + zero_point).clamp(0, (1 << bits) - 1)


def grouped(rows: Tensor, group_size: int) -> Tensor:
    """View (rows, cols) as (rows, groups, group_size); the last group is filled up with zeros."""
    missing = -rows.shape[1] % group_size
    padded = torch.nn.functional.pad(rows, (0, missing)) if missing else rows
    return padded.reshape(rows.shape[0], -1, group_size)


def ungrouped(groups: Tensor, cols: int) -> Tensor:
    """Undo :func:`grouped`."""
    return groups.reshape(groups.shape[0], -1)[:, :cols]
