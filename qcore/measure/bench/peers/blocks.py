"""Weights rounded to a few bits in blocks of columns, as other libraries store them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK", "TOLERANCES", "Blocks", "round_to_blocks"]

BLOCK = 128

TOLERANCES = {4: 0.15}
"""Deviation from the float layer that so many bits may bring, of peers that do not tell their rounded weights."""


@dataclass(frozen=True)
class Blocks:
    """``value = (code - 2**(bits-1)) * scale``.

    Attributes:
        bits: width of a code.
        codes: uint8 (rows, blocks, BLOCK); columns that fill up the last block have the code of 0.
        scales: float32 (rows, blocks).
        values: float32 (rows, cols): the rounded weight.
    """

    bits: int
    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    values: NDArray[np.float32]

    def packed(self) -> NDArray[np.uint8]:
        """Return the codes (rows, blocks, BLOCK * bits / 8), the first of a byte in its lowest bits."""
        each = 8 // self.bits
        packed = np.zeros((*self.codes.shape[:2], self.codes.shape[2] // each), np.uint8)
        for place in range(each):
            packed |= self.codes[..., place::each] << np.uint8(self.bits * place)
        return packed

    @property
    def nbytes(self) -> int:
        """Bytes of codes and scales."""
        return self.codes.size * self.bits // 8 + self.scales.nbytes


def round_to_blocks(weight: NDArray[np.float32], bits: int) -> Blocks:
    """Round ``weight`` (rows, cols) to codes of ``bits`` around ``2**(bits-1)``, a scale a block."""
    rows, cols = weight.shape
    zero = 1 << (bits - 1)
    blocks = np.pad(weight, ((0, 0), (0, -cols % BLOCK))).reshape(rows, -1, BLOCK)
    scales = np.maximum(np.abs(blocks).max(axis=2) / max(zero - 1, 1), np.float32(2.0**-100)).astype(np.float32)
    codes = np.clip(np.round(blocks / scales[..., None]) + zero, 0, 2 * zero - 1).astype(np.uint8)
    values = ((codes.astype(np.float32) - zero) * scales[..., None]).reshape(rows, -1)[:, :cols]
    return Blocks(bits, codes, scales, values.astype(np.float32))
