"""``hetero_diffq/sliced``: weights with a learned step and range for each slice, from which widths follow."""

from __future__ import annotations

import torch
from torch import Tensor

from qcore.quantizers import check_finite
from qcore.quantizers.config import QuantizerConfig
from qcore.quantizers.integer import as_rows
from qcore.tensor import Encoded
from qcore.tensor.integer import TINY, grouped, ungrouped
from qcore_hetero_diffq.quantizers.config import SlicedConfig
from qcore_hetero_diffq.quantizers.learned import LearnedGrid
from qcore_hetero_diffq.quantizers.levels import BINARY, TERNARY, largest_codes
from qcore_hetero_diffq.quantizers.rounding import Grid, derived_bits, rounded

__all__ = ["Sliced"]

SIGMAS = 3.0
"""A slice's range begins at so many standard deviations from its mean."""

MEMORY = 0.99
"""Share of the running mean of squared gradients that a new one leaves."""


class Sliced(LearnedGrid):
    """Symmetric codes ``-L..L`` of a step ``d`` and a range ``r`` for each slice, ``L = round(r / d)``.

    A slice is an output channel, a group of its columns, or the tensor. Widths are no parameters: a slice has
    ``b = max(ceil(log2(L + 1)) + 1, 2)`` bits, a row the largest of its slices, as rows are stored with one width. The
    order of operations and the gradients are those of :mod:`~qcore_hetero_diffq.quantizers.rounding`. ``r`` begins at
    ``max(|mean - 3 sigma|, |mean + 3 sigma|)`` of the slice, ``d`` at ``r / (2**(bits-1) - 1)``, so that the first
    width is ``bits``.

    With a level above 0 a row's width stands still: ``L`` is the level's largest code, ``r = L d``, and ``d`` alone is
    learned. Levels begin at 1: binary, ``code = sign(x)``.

    Attributes:
        sensitivity: float32 (rows or 1,), a buffer that is not saved: running mean over steps of the mean squared
            gradient of the weights that share a width.
        seen: float32 (), likewise: how much of the running mean is filled.

    Source: Schaefer et al., WACV 2024, arXiv:2206.07741; Uhlich et al. 2020, arXiv:1905.11452. Binary and ternary are
    what the former name as future work.
    """

    Config = SlicedConfig
    config: SlicedConfig
    sensitivity: Tensor
    seen: Tensor

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__(config)
        self.register_buffer("sensitivity", torch.empty(0), persistent=False)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set step and range of each slice of ``x``; a slice of zeros gets the range 1."""
        check_finite(x, self.tensor_name)
        rows = as_rows(x)
        slices, count = self._slices(rows), self._counts(rows)
        mean = slices.sum(dim=-1, keepdim=True, dtype=torch.float64) / count
        squares = (slices.double() - mean).square().sum(dim=-1, keepdim=True)
        padding = slices.shape[-1] - count
        sigma = ((squares - padding * mean.square()).clamp_min(0) / count).sqrt()
        found = torch.maximum((mean - SIGMAS * sigma).abs(), (mean + SIGMAS * sigma).abs()).float().squeeze(-1)
        found = torch.where(found > 0, found, torch.ones_like(found)).clamp(*self.config.range_limits)
        self.set_grid(found / float(2 ** (self.config.bits - 1) - 1), found)
        self.sensitivity = torch.zeros(len(self.level), device=x.device)
        self.seen = torch.zeros((), device=x.device)

    def encode(self, x: Tensor) -> Encoded:
        """Return the codes and scales of ``x``."""
        check_finite(x, self.tensor_name)
        rows, grid = as_rows(x), self.grid()
        codes = self._rows(grid.codes(self._slices(rows)), rows.shape)
        widths = self.row_bits()
        bits: int | Tensor = int(widths) if self.config.granularity == "tensor" else widths
        return Encoded(codes, grid.step.squeeze(-1), x.shape, x.dtype, "symmetric", bits, None, self.config.group_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` fake-quantized; see :func:`~qcore_hetero_diffq.quantizers.rounding.rounded` for gradients."""
        if not torch.is_grad_enabled():
            return self.encode(x).decode()
        check_finite(x, self.tensor_name)
        rows = x.to(torch.float32)
        rows = rows.flatten(1) if x.dim() > 1 else rows.reshape(1, -1)
        self._elements = rows.numel()
        step, range = self.steps().unsqueeze(-1), self.ranges().unsqueeze(-1)
        surrogate, delta = self.config.surrogate, self.config.delta
        y = rounded(self._slices(rows), step, range, self.grid(), surrogate, delta, self)
        return self._rows(y, rows.shape).reshape(x.shape).to(x.dtype)

    def bits(self, *, smooth: bool = False) -> Tensor:
        """Return the width of each row, float32 (rows or 1,), with the gradients of the paper while it is derived.

        With ``smooth`` a derived width is the real number before it is rounded up.
        """
        derived = derived_bits(self.steps(), self.ranges(), signed=True, least=TERNARY, smooth=smooth).amax(dim=1)
        return torch.where(self.level > 0, self.level.to(torch.float32), derived)

    @torch.no_grad()
    def row_bits(self) -> Tensor:
        """Return the width of each row's codes, int64 (rows or 1,)."""
        return self.bits().long()

    def set_levels(self, levels: Tensor, steps: Tensor) -> None:
        """Let widths stand still at levels, int64 (rows or 1,), with steps, float32 (rows or 1, groups or 1)."""
        self.set_grid(steps, steps * largest_codes(levels).unsqueeze(1), levels)

    @torch.no_grad()
    def grid(self) -> Grid:
        """Return where slices are rounded to."""
        step, range = self.steps().unsqueeze(-1), self.ranges().unsqueeze(-1)
        level = self.level.reshape(-1, 1, 1)
        fixed = (level > 0).expand_as(step)
        high = torch.where(fixed, largest_codes(level), (range / step).round())
        binary = (level == BINARY).expand_as(step) if BINARY in self.look("level") else None
        return Grid(step, step.clamp_min(TINY).reciprocal(), range, high, -high, fixed, binary)

    def watch(self, gradient: Tensor, x: Tensor) -> None:
        """Take note of the mean squared gradient of what shares a width; what fills up the last group has none."""
        if self.watching and self._elements:
            if len(self.sensitivity) != len(self.level):  # it was loaded, not initialized
                self.sensitivity = torch.zeros(len(self.level), device=x.device)
            squares = gradient.square().sum(dim=(1, 2)) / (self._elements / len(self.level))
            self.sensitivity.lerp_(squares, 1 - MEMORY)
            self.seen.lerp_(torch.ones_like(self.seen), 1 - MEMORY)

    def slices(self, x: Tensor) -> Tensor:
        """View a weight as float32 (rows or 1, groups, n): what has a step of its own; no gradient."""
        return self._slices(as_rows(x))

    def _slices(self, rows: Tensor) -> Tensor:
        """View float32 (rows, cols) as (rows, groups, n)."""
        if self.config.granularity == "tensor":
            return rows.reshape(1, 1, -1)
        size = self.config.group_size
        return rows.unsqueeze(1) if size is None else grouped(rows, size)

    def _rows(self, slices: Tensor, shape: torch.Size) -> Tensor:
        return ungrouped(slices, shape[1]) if self.config.group_size is not None else slices.reshape(shape)

    def _counts(self, rows: Tensor) -> Tensor:
        """Return how many elements each group has, without what fills up the last, float64 (groups, 1) or (1,)."""
        size, cols = self.config.group_size, rows.shape[1]
        if size is None:
            elements = rows.numel() if self.config.granularity == "tensor" else cols
            return torch.tensor([max(elements, 1)], dtype=torch.float64, device=rows.device)
        starts = torch.arange(0, cols, size, device=rows.device)
        return (cols - starts).clamp(max=size).double().unsqueeze(1)
