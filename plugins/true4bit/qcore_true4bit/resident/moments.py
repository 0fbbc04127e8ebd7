"""Moments of the gradient, and the direction that Adam makes of them. State is not part of a model's file."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from qcore_true4bit.resident.blocks import (
    block_count,
    decode_signed,
    decode_unsigned,
    encode_signed,
    encode_unsigned,
)
from qcore_true4bit.resident.config import ResidentConfig

__all__ = ["ByteMoments", "FactoredMoments", "FloatMoments", "Moments", "Squares", "make_moments"]


class Moments(nn.Module, ABC):
    """First and second moment of one weight's gradient ``g`` (rows, cols), and the direction of its update.

    ::

        m <- b1 m + (1 - b1) g                v <- b2 v + (1 - b2) (g**2 + eps**2)
        u  = m / (1 - b1**t) / sqrt(v / (1 - b2**t))

    :meth:`begin` is called once a step, then :meth:`direction` for each chunk of rows. Source: Kingma and Ba 2014,
    arXiv:1412.6980, algorithm 1, with ``eps`` inside the root.

    Attributes:
        steps: int64 (), the ``t`` of the last step.
    """

    steps: Tensor

    def __init__(self, rows: int, cols: int, config: ResidentConfig) -> None:
        super().__init__()
        self.rows, self.cols = rows, cols
        self.betas, self.eps = config.betas, config.eps
        self.hold("steps", torch.zeros((), dtype=torch.int64))

    def hold(self, name: str, value: Tensor) -> None:
        """Register state."""
        self.register_buffer(name, value, persistent=False)

    def begin(self, squares: Squares, factor: float) -> None:
        """Count a step, and take in what is needed of the whole gradient; it is to be multiplied by ``factor``."""
        self.steps += 1
        step = int(self.steps)
        self.corrections = tuple(1 - beta**step for beta in self.betas)

    @abstractmethod
    def direction(self, rows: slice, gradient: Tensor, factor: float, generator: torch.Generator) -> Tensor:
        """Take in the gradient of ``rows``, times ``factor``, and return their ``u``, float32 (chunk, cols)."""


class Squares:
    """Means of the squared gradient.

    Attributes:
        rows: mean over the columns, float32 (rows,).
        cols: mean over the rows, float32 (cols,).
        norm: the gradient's Euclidean norm; NaN or infinite if any element is, or if a square overflows.
    """

    def __init__(self, gradient: Tensor, chunks: list[slice]) -> None:
        rows, cols = gradient.shape
        self.rows = gradient.new_empty(rows)
        self.cols = gradient.new_zeros(cols)
        for chunk in chunks:
            squares = gradient[chunk].square()
            torch.mean(squares, dim=1, out=self.rows[chunk])
            self.cols += squares.sum(dim=0)
        self.cols /= rows
        self.norm = float(self.rows.sum()) ** 0.5 * cols**0.5


class FactoredMoments(Moments):
    """8-bit first moment; second moment ``v_ij = r_i c_j / mean(r)``, from means over columns and over rows.

    Attributes:
        first: int8 (rows, cols); first_peaks: float32 (rows, blocks), see :mod:`qcore_true4bit.resident.blocks`.
        second_rows: the ``r``, float32 (rows,); second_cols: the ``c``, float32 (cols,).

    Source of the factors: Shazeer and Stern 2018, arXiv:1804.04235, algorithm 2, without its update clipping.
    """

    first: Tensor
    first_peaks: Tensor
    second_rows: Tensor
    second_cols: Tensor

    def __init__(self, rows: int, cols: int, config: ResidentConfig) -> None:
        super().__init__(rows, cols, config)
        self.hold("first", torch.zeros(rows, cols, dtype=torch.int8))
        self.hold("first_peaks", torch.ones(rows, block_count(cols)))
        self.hold("second_rows", torch.zeros(rows))
        self.hold("second_cols", torch.zeros(cols))

    def begin(self, squares: Squares, factor: float) -> None:
        """Take in the means of the squared gradient."""
        super().begin(squares, factor)
        for average, now in ((self.second_rows, squares.rows), (self.second_cols, squares.cols)):
            average.lerp_(now * factor**2 + self.eps**2, 1 - self.betas[1])

    def direction(self, rows: slice, gradient: Tensor, factor: float, generator: torch.Generator) -> Tensor:
        """Return the direction of ``rows``."""
        first = decode_signed(self.first[rows], self.first_peaks[rows])
        first.mul_(self.betas[0]).add_(gradient, alpha=(1 - self.betas[0]) * factor)
        self.first[rows], self.first_peaks[rows] = encode_signed(first)
        return first.mul_(self._per_row(rows)).mul_(self.second_cols.rsqrt())

    def _per_row(self, rows: slice) -> Tensor:
        """Return what the row means and the start's bias make of a row, float32 (chunk, 1)."""
        bias = self.corrections[1] ** 0.5 / self.corrections[0]
        return (self.second_rows[rows] / self.second_rows.mean()).rsqrt_().mul_(bias).unsqueeze(1)


class ByteMoments(Moments):
    """Both moments in 8 bits.

    Attributes:
        first, second: int8 and uint8 (rows, cols).
        first_peaks, second_peaks: float32 (rows, blocks), see :mod:`qcore_true4bit.resident.blocks`.
    """

    first: Tensor
    first_peaks: Tensor
    second: Tensor
    second_peaks: Tensor

    def __init__(self, rows: int, cols: int, config: ResidentConfig) -> None:
        super().__init__(rows, cols, config)
        for name, dtype in (("first", torch.int8), ("second", torch.uint8)):
            self.hold(name, torch.zeros(rows, cols, dtype=dtype))
            self.hold(f"{name}_peaks", torch.ones(rows, block_count(cols)))

    def direction(self, rows: slice, gradient: Tensor, factor: float, generator: torch.Generator) -> Tensor:
        """Return the direction of ``rows``."""
        first = decode_signed(self.first[rows], self.first_peaks[rows])
        second = decode_unsigned(self.second[rows], self.second_peaks[rows])
        direction = _adam(first, second, gradient * factor, self)
        self.first[rows], self.first_peaks[rows] = encode_signed(first)
        self.second[rows], self.second_peaks[rows] = encode_unsigned(second, generator)
        return direction


class FloatMoments(Moments):
    """Both moments in float32 (rows, cols): 8 bytes a weight, to compare with."""

    first: Tensor
    second: Tensor

    def __init__(self, rows: int, cols: int, config: ResidentConfig) -> None:
        super().__init__(rows, cols, config)
        self.hold("first", torch.zeros(rows, cols))
        self.hold("second", torch.zeros(rows, cols))

    def direction(self, rows: slice, gradient: Tensor, factor: float, generator: torch.Generator) -> Tensor:
        """Return the direction of ``rows``."""
        return _adam(self.first[rows], self.second[rows], gradient * factor, self)


def _adam(first: Tensor, second: Tensor, gradient: Tensor, moments: Moments) -> Tensor:
    """Update both moments in place and return the direction."""
    first.lerp_(gradient, 1 - moments.betas[0])
    second.lerp_(gradient.square().add_(moments.eps**2), 1 - moments.betas[1])
    bias = moments.corrections[1] ** 0.5 / moments.corrections[0]
    return second.rsqrt().mul_(first).mul_(bias)


_KINDS: dict[str, type[Moments]] = {"factored": FactoredMoments, "8bit": ByteMoments, "float": FloatMoments}


def make_moments(rows: int, cols: int, config: ResidentConfig) -> Moments:
    """Return the moments that ``config`` asks for."""
    return _KINDS[config.moments](rows, cols, config)
