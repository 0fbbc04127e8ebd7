"""Encoded: integer codes and scales, before packing. What a quantizer's one code function returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ENCODINGS", "Encoded", "largest_code", "offset_and_step"]

ENCODINGS = ("int", "uint", "ternary", "odd")
"""How an unsigned stored code ``u`` of ``b`` bits maps to the integer code.

======== ======================= =======================
name     code                    codes of ``b`` bits
======== ======================= =======================
int      u - 2**(b-1)            -2**(b-1) .. 2**(b-1)-1
uint     u                       0 .. 2**b - 1
ternary  u - 1                   -1, 0, 1
odd      2 u - (2**b - 1)        odd numbers; -1, +1 at 1 bit
======== ======================= =======================
"""


def offset_and_step(encoding: str, bits: int) -> tuple[int, int]:
    """Return ``(a, b)`` so that the integer code of a stored code ``u`` is ``a * u + b``."""
    return {
        "int": (1, -(1 << (bits - 1))),
        "uint": (1, 0),
        "ternary": (1, -1),
        "odd": (2, -((1 << bits) - 1)),
    }[encoding]


def largest_code(encoding: str, bits: int) -> int:
    """Return the largest magnitude of ``code - zero_point``."""
    return {"int": 1 << (bits - 1), "uint": (1 << bits) - 1, "ternary": 1, "odd": (1 << bits) - 1}[encoding]


@dataclass(frozen=True)
class Encoded:
    """A tensor as integers: ``value = (code - zero_point) * scale``.

    Attributes:
        codes: float32 (rows, cols), whole numbers.
        scale: float32, (1, 1) per tensor, (rows, 1) per row, (rows, groups) per group of columns.
        shape: the tensor's own shape; ``rows * cols`` elements.
        dtype: the tensor's own dtype.
        encoding: one of :data:`ENCODINGS`.
        bits: width of every code, or int64 (rows,) where it differs row by row.
        zero_point: whole numbers, shaped like ``scale``; None means 0. Only with encoding ``uint``.
        group_size: columns a group; None where the scale is per tensor or row.
    """

    codes: Tensor
    scale: Tensor
    shape: torch.Size
    dtype: torch.dtype
    encoding: str
    bits: int | Tensor
    zero_point: Tensor | None = None
    group_size: int | None = None

    @property
    def largest(self) -> int:
        """The largest magnitude that ``code - zero_point`` can have."""
        bits = self.bits if isinstance(self.bits, int) else int(self.bits.max()) if self.bits.numel() else 1
        return largest_code(self.encoding, bits)

    def centred(self) -> Tensor:
        """Return ``codes - zero_point``, float32 (rows, cols)."""
        if self.zero_point is None:
            return self.codes
        return self.codes - spread(self.zero_point, self.group_size, self.codes.shape[1])

    def decode(self) -> Tensor:
        """Return the values in the tensor's own shape and dtype; the product is taken in float32."""
        values = self.centred() * spread(self.scale, self.group_size, self.codes.shape[1])
        return values.reshape(self.shape).to(self.dtype)


def spread(per_group: Tensor, group_size: int | None, cols: int) -> Tensor:
    """Repeat (rows, groups) along the columns of each group; other shapes broadcast as they are."""
    if group_size is None:
        return per_group
    return per_group.repeat_interleave(group_size, dim=1)[:, :cols]
