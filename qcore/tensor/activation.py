"""ActivationScheme: how a layer's input becomes integer codes, as data that a kernel can read."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcore.errors import QuantizationError
from qcore.tensor.columns import GRIDS, Columns
from qcore.tensor.encoded import Encoded
from qcore.tensor.integer import affine_codes, affine_scale, as_tokens, symmetric_codes, symmetric_scale

__all__ = ["ActivationScheme"]


@dataclass(frozen=True)
class ActivationScheme:
    """Integer activations by the formulas of :mod:`qcore.tensor.integer`.

    With ``columns``, each column has a clip and a width of its own instead, for linear layers alone.

    Attributes:
        bits: 2 to 8; with ``columns`` 8 or 16, the width of their common grid.
        symmetric: symmetric codes (encoding ``int``) or affine ones (encoding ``uint``).
        per_token: one range for each row of features, found at each call; else one static range for the tensor.
        floor: lower limit of a dynamic symmetric bound (1e-5 in BitNet b1.58); 0 for none but ``2**-100``.
        low, high: the static range, float32 (1, 1); None when dynamic, and with ``columns``.
        columns: what differs column by column, known beforehand; None: one range for all columns.

    Raises:
        QuantizationError: ``columns`` come with a range, with ``per_token``, or with a width that no grid has.
    """

    bits: int
    symmetric: bool = True
    per_token: bool = True
    floor: float = 0.0
    low: Tensor | None = None
    high: Tensor | None = None
    columns: Columns | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts ``columns``."""
        if self.columns is None:
            return
        if self.per_token or self.low is not None or self.high is not None or (self.bits, self.symmetric) not in GRIDS:
            raise QuantizationError(
                "columns have ranges of their own, on a grid of 8 or 16 bits: no range a token or for the tensor",
                "give ActivationScheme(8 or 16, symmetric, per_token=False, columns=...)",
            )

    @property
    def is_static(self) -> bool:
        """Whether one range, known beforehand, serves every input: then layers may hand over codes."""
        return self.low is not None and self.high is not None

    def agrees(self, other: ActivationScheme) -> bool:
        """Return whether both are static and give every number the same code."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return False
        ranges = ((self.low, other.low), (self.high, other.high))
        alike = (self.bits, self.symmetric) == (other.bits, other.symmetric)
        return alike and all(torch.equal(mine.cpu(), theirs.cpu()) for mine, theirs in ranges)

    @property
    def largest(self) -> int:
        """The largest magnitude of a code."""
        if self.columns is not None:
            return GRIDS[self.bits, self.symmetric]
        return (1 << (self.bits - 1)) - 1 if self.symmetric else (1 << self.bits) - 1

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes of float32 ``x`` of any shape under a static range: whole numbers, float32; NaN of NaN."""
        return self.encode(x).codes.reshape(x.shape)

    def values(self, codes: Tensor) -> Tensor:
        """Return float32 numbers whose :meth:`codes` those are, given codes of a static range; NaN of NaN."""
        scale, zero = self._scale_and_zero()
        return (codes if zero is None else codes - zero) * scale

    def _scale_and_zero(self) -> tuple[Tensor, Tensor | None]:
        assert self.low is not None
        assert self.high is not None
        if self.symmetric:
            return symmetric_scale(self.high, self.bits)[0].squeeze(), None
        scale, _, zero = affine_scale(self.low, self.high, self.bits)
        return scale.squeeze(), zero.squeeze()

    def encode(self, x: Tensor) -> Encoded:
        """Return the codes of ``x`` (..., features); rows are tokens, or one range serves all.

        NaN and infinity are not looked for here: a row that holds one has undefined codes.

        Raises:
            QuantizationError: ``x`` has another number of features than there are columns.
        """
        rows = as_tokens(x.detach()).to(torch.float32)
        if self.columns is not None:
            return self._encode_columns(x, rows, self.columns)
        low, high = self.bounds(rows)
        if self.symmetric:
            scale, inverse = symmetric_scale(high, self.bits)
            return Encoded(symmetric_codes(rows, inverse, self.bits), scale, x.shape, x.dtype, "int", self.bits)
        scale, inverse, zero = affine_scale(low, high, self.bits)
        codes = affine_codes(rows, inverse, zero, self.bits)
        return Encoded(codes, scale, x.shape, x.dtype, "uint", self.bits, zero)

    def _encode_columns(self, x: Tensor, rows: Tensor, columns: Columns) -> Encoded:
        if rows.shape[1] != columns.inverse.shape[1]:
            raise QuantizationError(f"{rows.shape[1]} features, and columns for {columns.inverse.shape[1]}")
        codes, encoding = columns.codes(rows, symmetric=self.symmetric), "int" if self.symmetric else "uint"
        return Encoded(codes, columns.scale, x.shape, x.dtype, encoding, self.bits)

    def bounds(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(low, high)``, each float32 (rows, 1) or (1, 1); symmetric: ``low = -high``."""
        if self.low is not None and self.high is not None:
            return self.low, self.high
        if rows.numel() == 0:
            empty = rows.new_zeros(rows.shape[0], 1)
            return empty, empty
        if self.symmetric:
            high = torch.maximum(rows.amax(dim=1, keepdim=True), -rows.amin(dim=1, keepdim=True)).clamp_min(self.floor)
            return -high, high
        # Two passes: torch's aminmax along a dimension is ten times slower than both.
        return rows.amin(dim=1, keepdim=True).clamp_max(0.0), rows.amax(dim=1, keepdim=True).clamp_min(0.0)
