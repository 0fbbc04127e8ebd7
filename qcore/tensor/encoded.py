"""Encoded: integer codes and scales, before packing. What a quantizer's one code function returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ENCODINGS", "Encoded", "codec_of", "largest_code", "offset_and_step", "stored_range"]

ENCODINGS = ("int", "uint", "ternary", "odd", "symmetric")
"""How an unsigned stored code ``u`` of ``b`` bits maps to the integer code.

========= ======================= =======================
name      code                    codes of ``b`` bits
========= ======================= =======================
int       u - 2**(b-1)            -2**(b-1) .. 2**(b-1)-1
uint      u                       0 .. 2**b - 1
ternary   u - 1                   -1, 0, 1
odd       2 u - (2**b - 1)        odd numbers; -1, +1 at 1 bit
symmetric 2 u - 1 at 1 bit        -1, +1
..        u - 1 at 2 bits         -1, 0, 1
..        u - 2**(b-1) from 3 on  -(2**(b-1)-1) .. 2**(b-1)-1; never u = 0
========= ======================= =======================

``symmetric`` is for rows that differ in width, binary and ternary ones beside wider ones.
"""


def offset_and_step(encoding: str, bits: int) -> tuple[int, int]:
    """Return ``(a, b)`` so that the integer code of a stored code ``u`` is ``a * u + b``."""
    return {
        "int": (1, -(1 << (bits - 1))),
        "uint": (1, 0),
        "ternary": (1, -1),
        "odd": (2, -((1 << bits) - 1)),
        "symmetric": (2, -1) if bits == 1 else (1, -1) if bits == 2 else (1, -(1 << (bits - 1))),
    }[encoding]


def stored_range(encoding: str, bits: int) -> tuple[int, int]:
    """Return the smallest and the largest stored code ``u`` that codes of ``bits`` bits take."""
    if encoding == "ternary" or (encoding, bits) == ("symmetric", 2):
        return 0, 2
    return int(encoding == "symmetric" and bits > 2), (1 << bits) - 1


def codec_of(encoding: str, bits: int) -> str:
    """Return the codec in which codes of ``bits`` bits are stored unless another is named: trits take 1.6 bits each."""
    return "trit5@1" if stored_range(encoding, bits) == (0, 2) else "packn@1"


def largest_code(encoding: str, bits: int) -> int:
    """Return the largest magnitude of ``code - zero_point``."""
    return {
        "int": 1 << (bits - 1),
        "uint": (1 << bits) - 1,
        "ternary": 1,
        "odd": (1 << bits) - 1,
        "symmetric": max(1, (1 << (bits - 1)) - 1),
    }[encoding]


@dataclass(frozen=True)
class Encoded:
    """A tensor as integers: ``value = (code - zero_point) * scale``.

    Attributes:
        codes: float32 (rows, cols), whole numbers.
        scale: float32, (1, 1) per tensor, (rows, 1) per row, (rows, groups) per group of columns.
        shape: the tensor's own shape; ``rows * cols`` elements.
        dtype: the tensor's own dtype.
        encoding: one of :data:`ENCODINGS`.
        bits: width of every code, or int64 (rows,) where it differs row by row; 1 to 8, or 16 of an input whose
            columns differ (such codes are never stored).
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
        return self.codes if self.zero_point is None else self._each_group(torch.sub, self.codes, self.zero_point)

    def decode(self) -> Tensor:
        """Return the values in the tensor's own shape and dtype; the product is taken in float32.

        A zero point rounds the coded range by up to half a step; a value that this puts beyond the largest number of
        the dtype becomes that number.
        """
        return self._shaped(self._each_group(torch.mul, self.centred(), self.scale))

    def decode_(self) -> Tensor:
        """Return :meth:`decode`, taken in the memory of ``codes``, which are lost."""
        codes = self.codes
        if self.zero_point is not None:
            codes = self._each_group(Tensor.sub_, codes, self.zero_point)
        return self._shaped(self._each_group(Tensor.mul_, codes, self.scale))

    def _each_group(self, op: Callable[[Tensor, Tensor], Tensor], x: Tensor, per_group: Tensor) -> Tensor:
        """Return ``op`` of ``x`` (rows, cols) and what ``per_group`` says of each group of its columns."""
        if self.group_size is None or x.shape[1] % self.group_size or not x.is_contiguous():
            return op(x, spread(per_group, self.group_size, x.shape[1]))
        # A view in three dimensions saves writing out ``per_group`` for every column.
        groups = x.view(x.shape[0], x.shape[1] // self.group_size, self.group_size)
        return op(groups, per_group.unsqueeze(-1)).view(x.shape)

    def _shaped(self, values: Tensor) -> Tensor:
        if self.zero_point is not None:
            limit = min(torch.finfo(self.dtype).max, torch.finfo(torch.float32).max)
            values.clamp_(-limit, limit)
        return values.reshape(self.shape).to(self.dtype)


def spread(per_group: Tensor, group_size: int | None, cols: int) -> Tensor:
    """Repeat (rows, groups) along the columns of each group; other shapes broadcast as they are."""
    if group_size is None:
        return per_group
    return per_group.repeat_interleave(group_size, dim=1)[:, :cols]
