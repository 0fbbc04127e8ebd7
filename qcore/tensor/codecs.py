"""Codecs: immutable, versioned byte layouts. New bytes get a new name.

Both codecs store unsigned codes row by row; each row starts on a byte, so that a row can be found without its
neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["CODECS", "Codec", "PackN", "Trit5"]

_GROUP = 8
"""``packn@1`` works on eight codes at a time: they fill exactly ``bits`` bytes."""
_TRITS = 5
"""3**5 = 243 fits a byte."""


class Codec(Protocol):
    """A byte layout for unsigned codes."""

    @property
    def name(self) -> str:
        """The name in files; its bytes never change."""

    def row_nbytes(self, cols: int, bits: int) -> int:
        """Return the bytes that a row of ``cols`` codes takes."""

    def largest(self, bits: int) -> int:
        """Return the largest code that it stores."""

    def encode(self, codes: Tensor, bits: int) -> Tensor:
        """Return the bytes of ``codes``: uint8 (rows, cols) to uint8 (rows, row_nbytes)."""

    def decode(self, data: Tensor, bits: int, cols: int) -> Tensor:
        """Return the codes in ``data``: the exact inverse of :meth:`encode`."""


@dataclass(frozen=True)
class PackN:
    """``packn@1``: codes of 1 to 8 bits, least significant bit first along a row, rows byte-aligned.

    Bit ``j`` of code ``i`` is bit ``(i * bits + j) % 8`` of byte ``(i * bits + j) // 8`` of its row. Unused bits at the
    end of a row are zero.
    """

    name: str = "packn@1"

    def row_nbytes(self, cols: int, bits: int) -> int:
        """Return ``ceil(cols * bits / 8)``."""
        return (cols * bits + 7) // 8

    def largest(self, bits: int) -> int:
        """Return ``2**bits - 1``."""
        return (1 << bits) - 1

    def encode(self, codes: Tensor, bits: int) -> Tensor:
        """Return the bytes of ``codes``, uint8 (rows, cols) below ``2**bits``."""
        if bits == 8:
            return codes.clone()
        word = _weighted_sum(_in_groups(codes, _GROUP), [1 << (bits * i) for i in range(_GROUP)])
        data = torch.stack([(word >> (8 * j)) & 255 for j in range(bits)], dim=-1)
        return data.to(torch.uint8).flatten(1)[:, : self.row_nbytes(codes.shape[1], bits)].contiguous()

    def decode(self, data: Tensor, bits: int, cols: int) -> Tensor:
        """Return the codes, uint8 (rows, cols)."""
        if bits == 8:
            return data.clone()
        word = _weighted_sum(_in_groups(data, bits), [1 << (8 * j) for j in range(bits)])
        mask = (1 << bits) - 1
        codes = torch.stack([(word >> (bits * i)) & mask for i in range(_GROUP)], dim=-1)
        return codes.to(torch.uint8).flatten(1)[:, :cols].contiguous()


@dataclass(frozen=True)
class Trit5:
    """``trit5@1``: codes 0, 1, 2, five to a byte in base 3, the first code the least significant digit.

    A row takes ``ceil(cols / 5)`` bytes: 1.6 bits a code. Missing codes at the end of a row count as 0.
    """

    name: str = "trit5@1"

    def row_nbytes(self, cols: int, bits: int) -> int:
        """Return ``ceil(cols / 5)``; ``bits`` is not used."""
        return (cols + _TRITS - 1) // _TRITS

    def largest(self, bits: int) -> int:
        """Return 2."""
        return 2

    def encode(self, codes: Tensor, bits: int) -> Tensor:
        """Return the bytes of ``codes``, uint8 (rows, cols) of values 0, 1 and 2."""
        return _weighted_sum(_in_groups(codes, _TRITS), [3**i for i in range(_TRITS)]).to(torch.uint8)

    def decode(self, data: Tensor, bits: int, cols: int) -> Tensor:
        """Return the codes, uint8 (rows, cols)."""
        value = data.to(torch.int64)
        codes = torch.stack([(value // 3**i) % 3 for i in range(_TRITS)], dim=-1)
        return codes.to(torch.uint8).flatten(1)[:, :cols].contiguous()


CODECS: dict[str, Codec] = {codec.name: codec for codec in (PackN(), Trit5())}
"""Every codec by name. A name's bytes never change."""


def _in_groups(x: Tensor, size: int) -> Tensor:
    """View (rows, cols) as int64 (rows, groups, size); the last group is filled up with zeros."""
    padded = torch.nn.functional.pad(x, (0, -x.shape[1] % size))
    return padded.reshape(x.shape[0], padded.shape[1] // size, size).to(torch.int64)


def _weighted_sum(x: Tensor, weights: list[int]) -> Tensor:
    return (x * torch.tensor(weights, dtype=torch.int64, device=x.device)).sum(dim=-1)
