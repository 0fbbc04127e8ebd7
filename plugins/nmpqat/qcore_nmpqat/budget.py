"""What a bit costs: a price on the mean width, and a budget that moves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from qcore_nmpqat.allocation import narrow_or_widen
from qcore_nmpqat.network import mean_bits, neurons, weight_counts

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qcore.methods import Progress

__all__ = ["BitPrice", "DualAscent", "SpendBudget"]


@dataclass(frozen=True)
class BitPrice:
    """``price * mean width``, a Phase's penalty; its gradient is that of the mixture's mean width.

    Attributes:
        price: what a bit costs; the price that :class:`DualAscent` has found is added.
    """

    price: float = 0.0

    def __call__(self, model: nn.Module) -> Tensor:
        """Return the penalty, float32 ()."""
        moved = next(iter(neurons(model).values()))[1].price
        return (self.price + moved) * mean_bits(model)


@dataclass(frozen=True)
class DualAscent:
    """``price <- max(0, price + rate (mean width - budget))`` after each step: a Phase's ``after_step``."""

    budget: float
    rate: float

    @torch.no_grad()
    def __call__(self, model: nn.Module, progress: Progress) -> None:
        """Move the price."""
        over = mean_bits(model) - self.budget
        for _, quantizer in neurons(model).values():
            quantizer.price.add_(over, alpha=self.rate).clamp_(min=0)


@dataclass(frozen=True)
class SpendBudget:
    """Before the first step of an epoch, brings the mean width to what may be spent by then: a Phase's ``before_step``.

    While it is below, the neuron widens whose strength lies nearest under its next threshold; while it is above, the
    one narrows that lies least above the threshold below it; of equal ones the one with more, or less, demand for each
    weight. It stops at the last change that keeps the budget.

    Attributes:
        budget: mean width of a weight.
        ramp: shares of the phase between which what may be spent rises from the lowest width to the budget. Then
            neurons only widen, early enough for their weights to learn, and the price narrows them. None: all of the
            budget at the phase's first step, and both ways.
    """

    budget: float
    ramp: tuple[float, float] | None = None

    @torch.no_grad()
    def __call__(self, model: nn.Module, progress: Progress) -> None:
        """Change strengths, once an epoch with a ramp, else once."""
        if progress.step % max(1, progress.steps // progress.epochs) or (progress.step and self.ramp is None):
            return
        layers = list(neurons(model).values())
        allowed, now = self._allowed(layers[0][1].config.widths[0], progress.fraction), float(mean_bits(model))
        if self.ramp is not None and now >= allowed:
            return
        counts = torch.cat([torch.full_like(q.demand, weight_counts(layer)) for layer, q in layers])
        strengths = torch.cat([q.strength for _, q in layers])
        demand = torch.cat([q.demand for _, q in layers]) / counts
        levels = torch.cat([q.levels() for _, q in layers])
        chosen = narrow_or_widen(strengths, demand, levels, counts, layers[0][1].config, allowed)
        sizes = [len(quantizer.level) for _, quantizer in layers]
        for (_, quantizer), part in zip(layers, torch.split(chosen, sizes), strict=True):
            quantizer.set_levels(part)

    def _allowed(self, lowest: int, fraction: float) -> float:
        if self.ramp is None:
            return self.budget
        begin, end = self.ramp
        return lowest + (self.budget - lowest) * min(1.0, max(0.0, (fraction - begin) / (end - begin)))
