"""``hetero_diffq/activation``: a layer's input with a learned step and range, from which its width follows."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from qcore.errors import CalibrationError
from qcore.quantizers import Quantizer, check_finite
from qcore.quantizers.config import QuantizerConfig
from qcore.tensor import ActivationScheme, Encoded
from qcore.tensor.integer import TINY, affine_scale, as_tokens, symmetric_scale
from qcore_hetero_diffq.quantizers.config import ActivationConfig
from qcore_hetero_diffq.quantizers.learned import LARGEST_CODE, LearnedGrid
from qcore_hetero_diffq.quantizers.losses import CANDIDATES, width_losses
from qcore_hetero_diffq.quantizers.packed import PackedActivation, static_scheme
from qcore_hetero_diffq.quantizers.rounding import Grid, derived_bits, rounded

__all__ = ["LEAST_BITS", "Activation"]

LEAST_BITS = 2
NEGATIVE = -1e-6
"""Values below this share of the largest magnitude make a tensor signed."""
MEMORY = 0.9
"""Share of the running means that a new batch leaves."""


class Activation(LearnedGrid):
    """Codes ``-L..L``, or ``0..L`` where no value is negative, of one step ``d`` and range ``r`` for the tensor.

    ``L = round(r / d)``, and ``b = max(ceil(log2(L + 1)) + signed, 2)`` bits; order of operations and gradients are
    those of :mod:`~qcore_hetero_diffq.quantizers.rounding`, straight-through at 2 bits. ``r`` begins at the mean of the
    99.9th percentile of ``|x|`` over the first training batches, ``d`` at ``r / L`` with the largest ``L`` of ``bits``;
    whether codes are signed those batches tell too, and it is kept.

    With a level above 0 the width stands still: codes are those of a static :class:`qcore.tensor.ActivationScheme` with
    the range ``r = L d``, so that kernels run them.

    Attributes:
        is_signed: bool (), a buffer.
        batches: int64 (), a buffer: training batches that the range was taken from.
        losses: float32 (levels, ratios), a buffer that is not saved: running mean over batches of what each width and
            share of the range would cost, see :func:`~qcore_hetero_diffq.quantizers.losses.width_losses`.
        seen: float32 (), likewise: how much of the running mean is filled.

    Source: Schaefer et al., WACV 2024, arXiv:2206.07741; Uhlich et al. 2020, arXiv:1905.11452.
    """

    Config = ActivationConfig
    config: ActivationConfig
    is_signed: Tensor
    batches: Tensor
    losses: Tensor
    seen: Tensor

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__(config)
        self.step.data, self.range.data = torch.zeros(1, 1), torch.zeros(1, 1)
        self.level = torch.zeros(1, dtype=torch.int64)
        self.register_buffer("is_signed", torch.tensor(bool(self.config.signed)))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("losses", torch.zeros(CANDIDATES), persistent=False)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    @property
    def needs_calibration(self) -> bool:
        """Whether no batch has told the range yet."""
        return bool(self.look("batches") == 0)

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the range from ``x`` alone."""
        self.batches.zero_()
        self._take(x)
        self.batches.fill_(self.config.batches if x.numel() else 0)

    @torch.no_grad()
    def settle(self) -> None:
        """Let no further batch tell the range, if one has."""
        if not self.needs_calibration:
            self.batches.clamp_(min=self.config.batches)

    def encode(self, x: Tensor) -> Encoded:
        """Return the codes of ``x`` (..., features)."""
        self._must_be_known()
        check_finite(x, self.tensor_name)
        scheme = self.scheme()
        if scheme is not None:
            return scheme.encode(x)
        rows, grid, bits = as_tokens(x.detach()).to(torch.float32), self.grid(), int(self.bits())
        codes = grid.codes(rows.reshape(1, 1, -1)).reshape(rows.shape)
        encoding = "int" if self.look("is_signed") else "uint"
        return Encoded(codes, grid.step.reshape(1, 1), x.shape, x.dtype, encoding, bits)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` fake-quantized; see :func:`~qcore_hetero_diffq.quantizers.rounding.rounded` for gradients."""
        if self.training and self.look("batches") < self.config.batches:
            self._take(x, together=True)
        if not torch.is_grad_enabled():
            return self.encode(x).decode()
        self._must_be_known()
        check_finite(x, self.tensor_name)
        flat = x.to(torch.float32).reshape(1, 1, -1)
        step, range = self.steps().unsqueeze(-1), self.ranges().unsqueeze(-1)
        if self._level:
            delta: float | Tensor = self.config.delta if self._level > LEAST_BITS else 0.0
        else:
            delta = torch.where(self.bits().detach() > LEAST_BITS, self.config.delta, 0.0)
        self._samples = x.shape[0] if x.dim() > 1 else 1
        y = rounded(flat, step, range, self.grid(), self.config.surrogate, delta, self)
        return y.reshape(x.shape).to(x.dtype)

    def bits(self, *, smooth: bool = False) -> Tensor:
        """Return the width, float32 (), with the gradients of the paper while it is derived.

        With ``smooth`` a derived width is the real number before it is rounded up.
        """
        step, range = self.steps(), self.ranges()
        derived = derived_bits(step, range, signed=self.is_signed, least=LEAST_BITS, smooth=smooth).squeeze()
        return torch.where(self.level[0] > 0, self.level[0].to(torch.float32), derived)

    def scheme(self) -> ActivationScheme | None:
        """Return the static scheme of a width that stands still; None while it is derived."""
        if self.needs_calibration or not self._level:
            return None
        return static_scheme(self._ends(), self._level)

    def packed(self) -> Quantizer:
        """Return the same codes with nothing to train, if the width stands still."""
        if self.needs_calibration or not self._level:
            return self
        return PackedActivation.of(self._ends(), self._level, self.tensor_name)

    @torch.no_grad()
    def grid(self) -> Grid:
        """Return where values are rounded to; of a width that stands still, what its scheme says."""
        fixed = (self.level > 0).reshape(1, 1, 1)
        if self._level:
            (low, end), bits, signed = self._ends(), self._level, self.look("is_signed")
            step, inverse = symmetric_scale(end, bits) if signed else affine_scale(low, end, bits)[:2]
            step, inverse = step.reshape(1, 1, 1), inverse.reshape(1, 1, 1)
            high = torch.full_like(step, self._top(bits))
            return Grid(step, inverse, step * high, high, -high if signed else torch.zeros_like(high), fixed)
        step, range = self.steps().unsqueeze(-1), self.ranges().unsqueeze(-1)
        high = (range / step).round()
        low = torch.where(self.is_signed, -high, 0.0)
        return Grid(step, step.clamp_min(TINY).reciprocal(), range, high, low, fixed)

    def largest_code(self) -> int:
        """Return the largest code that 8 bits hold."""
        return LARGEST_CODE if self.look("is_signed") else 2 * LARGEST_CODE + 1

    @torch.no_grad()
    def set_level(self, level: int, range: Tensor) -> None:
        """Let the width stand still at ``level`` bits over ``range``, float32 (1, 1)."""
        self.set_grid(range / self._top(level), range, torch.full_like(self.level, level))

    def watch(self, gradient: Tensor, x: Tensor) -> None:
        """Take note of what each width would cost."""
        if self.watching and x.numel():
            found = width_losses(gradient, x, self.ranges().detach(), self._samples, signed=self.look("is_signed"))
            self.losses.lerp_(found, 1 - MEMORY)
            self.seen.lerp_(torch.ones_like(self.seen), 1 - MEMORY)

    def _ends(self) -> Tensor:
        """Return the static range, float32 (2, 1, 1): from ``-L d`` or 0 to ``L d``."""
        high = self.steps().detach().reshape(1, 1) * self._top(self._level)
        return torch.stack([torch.where(self.is_signed, -high, 0.0), high])

    @property
    def _level(self) -> int:
        return int(self.look("level")[0])

    def _top(self, bits: int) -> float:
        """Return the largest code of ``bits``."""
        return float((1 << (bits - int(self.look("is_signed")))) - 1)

    def _must_be_known(self) -> None:
        if self.needs_calibration:
            raise CalibrationError(
                f"{self.tensor_name} has a range that was never set",
                "train it, or call qcore.calibrate(model, batches)",
            )

    @torch.no_grad()
    def _take(self, x: Tensor, *, together: bool = False) -> None:
        """Let a batch tell range and sign, beside those before it; ``together``: ranks that train agree on one."""
        check_finite(x, self.tensor_name)
        if not x.numel():
            return
        values = x.detach().to(torch.float32)
        found = _percentile(values.abs().flatten(), self.config.percentile)
        low, high = values.aminmax()
        negative = (low < NEGATIVE * torch.maximum(-low, high)).to(torch.float32)
        if together and distributed.is_available() and distributed.is_initialized():
            both = torch.stack([found, negative])
            distributed.all_reduce(both)
            found, negative = both[0] / distributed.get_world_size(), both[1]
        if self.config.signed is None:
            self.is_signed |= negative > 0
        count = self.look("batches")
        before = self.ranges().detach().squeeze() if count else torch.zeros_like(found)
        range = ((before * count + found) / (count + 1)).reshape(1, 1)
        range = torch.where(range > 0, range, torch.ones_like(range)).clamp(*self.config.range_limits)
        self.set_grid(range / self._top(self._level or self.config.bits), range, self.level)
        self.batches += 1


def _percentile(magnitudes: Tensor, percentile: float) -> Tensor:
    """Return the smallest number that ``percentile`` % of the magnitudes do not exceed, the largest if that is 0."""
    rank = max(1, -int(-len(magnitudes) * percentile // 100))
    found = torch.kthvalue(magnitudes, min(rank, len(magnitudes))).values
    return torch.where(found > 0, found, magnitudes.amax())
