"""The levels that a slice ends with: binary, ternary, and symmetric integers of 3 to 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from qcore.tensor.codecs import CODECS

__all__ = ["BINARY", "LEVELS", "TERNARY", "largest_codes", "row_nbytes", "stored_bits"]

BINARY, TERNARY = 1, 2
LEVELS = (BINARY, TERNARY, 3, 4, 5, 6, 7, 8)
"""A level is the width of its codes: 1 bit -1, +1; 2 bits -1, 0, +1; b bits -(2**(b-1) - 1) .. 2**(b-1) - 1."""

_TRIT_BITS = 1.6


def largest_codes(levels: Tensor) -> Tensor:
    """Return the largest code of each level, float32, shaped like ``levels``."""
    return (torch.exp2(levels.to(torch.float32) - 1) - 1).clamp_min(1)


def row_nbytes(level: int, cols: int) -> int:
    """Return the bytes that the codes of a row of ``cols`` weights take in a file."""
    return CODECS["trit5@1" if level == TERNARY else "packn@1"].row_nbytes(cols, level)


def stored_bits(bits: Tensor) -> Tensor:
    """Return the bits that a code of ``bits``, float32, takes: three values are packed in 1.6, not in 2.

    Between 2 and 3 it is the line from 1.6 to 3; the gradient is that of ``bits``.
    """
    saved = (TERNARY - _TRIT_BITS) * (TERNARY + 1 - bits.detach()).clamp(0, 1)
    return bits - saved.masked_fill(bits.detach() < TERNARY, 0)
