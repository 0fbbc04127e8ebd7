"""The common grid of activations of 4, 8 and 16 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from qcore.tensor import ActivationScheme, Columns

__all__ = ["column_scheme", "levels_of"]

_UNSIGNED = {4: 15, 8: 255, 16: 65535}
_SIGNED = {4: 7, 8: 126, 16: 32760}
"""Largest codes; each divides the next, so that codes of a narrow width are codes of a wide one."""


def levels_of(width: int, *, signed: bool) -> int:
    """Return the largest code of ``width`` bits."""
    return (_SIGNED if signed else _UNSIGNED)[width]


def column_scheme(clip: Tensor, widths: Tensor, *, signed: bool) -> ActivationScheme:
    """Return how features of these clips, float32 (features,), and widths, int64 (features,), become codes."""
    wide = bool((widths == 16).any())
    top = levels_of(16 if wide else 8, signed=signed)
    largest = torch.empty_like(clip)
    for width in (4, 8, 16):
        largest[widths == width] = levels_of(width, signed=signed)
    largest = largest.reshape(1, -1)
    columns = Columns(largest / clip, largest, top / largest, largest.new_full((1, 1), 1 / top))
    return ActivationScheme(16 if wide else 8, symmetric=signed, per_token=False, columns=columns)
