"""From floats to integer codes: the order of the operations that every quantizer and kernel follows.

Symmetric, ``q = 2**(bits-1) - 1``, for the clipping bound ``c`` of a slice:

1. ``c = max(c, 2**-100)``
2. ``inverse = q / c``                     (one float32 division a slice)
3. ``code = clamp(round(x * inverse), -q, q)``  (ties to even)
4. ``scale = min(c / q, (2**128 - 2**106) / q)``  (so that ``q * scale`` stays finite)

Affine, ``q = 2**bits - 1``, for the range ``low <= 0 <= high`` of a slice:

1. ``scale = max(high / q - low / q, 2**-100)``
2. ``inverse = 1 / scale``
3. ``zero_point = clamp(round(-low * inverse), 0, q)``
4. ``code = clamp(round(x * inverse) + zero_point, 0, q)``

Odd, ``2**bits`` levels for the half step ``h`` of a slice, with ``t = 2**(bits-1)``:

1. ``inverse = 0.5 / max(h, 2**-100)``
2. ``code = 2 clamp(floor(x * inverse), -t, t - 1) + 1``
3. ``scale = h``

Everything is float32. A slice of zeros has code 0 (or its zero point) everywhere.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "TINY",
    "affine_codes",
    "affine_scale",
    "as_tokens",
    "grouped",
    "odd_codes",
    "odd_inverse",
    "symmetric_codes",
    "symmetric_scale",
    "ungrouped",
]

TINY = 2.0**-100
"""Slices whose largest magnitude is below this are stored as zeros; it keeps ``q / c`` finite."""

_LARGEST = 2.0**128 - 2.0**106
"""Three steps below the largest float32, so that ``q`` times a rounded ``_LARGEST / q`` does not overflow."""


def symmetric_scale(bound: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Return ``(scale, inverse)`` of the clipping ``bound``, float32, any shape."""
    largest = (1 << (bits - 1)) - 1
    bound, q = bound.clamp_min(TINY), _divisor(bound, largest)
    return (bound / q).clamp_max(_LARGEST / largest), q / bound


def symmetric_codes(x: Tensor, inverse: Tensor, bits: int) -> Tensor:
    """Return the codes of float32 ``x``; ``inverse`` broadcasts against it."""
    q = (1 << (bits - 1)) - 1
    return (x * inverse).round_().clamp_(-q, q)


def affine_scale(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``(scale, inverse, zero_point)`` of the range from ``low <= 0`` to ``high >= 0``."""
    largest = (1 << bits) - 1
    q = _divisor(high, largest)
    scale = (high / q - low / q).clamp_min(TINY)
    inverse = 1.0 / scale
    return scale, inverse, torch.round(-low * inverse).clamp(0, largest)


def affine_codes(x: Tensor, inverse: Tensor, zero_point: Tensor, bits: int) -> Tensor:
    """Return the codes of float32 ``x``; the other tensors broadcast against it."""
    return (x * inverse).round_().add_(zero_point).clamp_(0, (1 << bits) - 1)


def _divisor(like: Tensor, value: int) -> Tensor:
    # torch takes number / tensor, and on GPUs tensor / number, by way of a rounded reciprocal; two tensors it divides.
    return like.new_full((), float(value))


def grouped(rows: Tensor, group_size: int) -> Tensor:
    """View (rows, cols) as (rows, groups, group_size); the last group is filled up with zeros."""
    missing = -rows.shape[1] % group_size
    padded = torch.nn.functional.pad(rows, (0, missing)) if missing else rows
    return padded.reshape(rows.shape[0], padded.shape[1] // group_size, group_size)


def ungrouped(groups: Tensor, cols: int) -> Tensor:
    """Undo :func:`grouped`."""
    return groups.flatten(1)[:, :cols]


def as_tokens(x: Tensor) -> Tensor:
    """View (..., features) as (tokens, features); a scalar is one token of one feature."""
    features = x.shape[-1] if x.dim() else 1
    return x.reshape(math.prod(x.shape[:-1]), features)


def odd_inverse(half_step: Tensor) -> Tensor:
    """Return the inverse of a whole step, float32, shaped like ``half_step``."""
    return 0.5 / half_step.clamp_min(TINY)


def odd_codes(x: Tensor, inverse: Tensor, top: Tensor) -> Tensor:
    """Return the odd codes of float32 ``x``, of ``2 * top`` levels; ``inverse`` and ``top`` broadcast against it."""
    return (x * inverse).floor_().clamp_(-top, top - 1).mul_(2).add_(1)
