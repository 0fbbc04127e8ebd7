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
    """Before the first step of the frozen phase, brings the mean width to the budget: a Phase's ``before_step``.

    While it is above, the neuron whose strength lies least above the threshold below it narrows; while it is below, the
    one nearest under its next threshold widens; of equal ones the one with less, or more, demand for each weight. It
    stops at the last change that keeps the budget.
    """

    budget: float

    @torch.no_grad()
    def __call__(self, model: nn.Module, progress: Progress) -> None:
        """Change strengths, once."""
        if progress.step:
            return
        layers = list(neurons(model).values())
        counts = [torch.full_like(q.demand, weight_counts(layer)) for layer, q in layers]
        strengths = torch.cat([q.strength for _, q in layers])
        demand = torch.cat([q.demand for _, q in layers]) / torch.cat(counts)
        config = layers[0][1].config
        levels = torch.cat([q.levels() for _, q in layers])
        chosen = narrow_or_widen(strengths, demand, levels, torch.cat(counts), config, self.budget)
        widths = torch.tensor(config.widths, device=chosen.device)
        sizes = [len(quantizer.level) for _, quantizer in layers]
        parts = zip(layers, torch.split(levels, sizes), torch.split(chosen, sizes), strict=True)
        for (_, quantizer), before, after in parts:
            if not torch.equal(before, after):
                quantizer.set_widths(widths[after])
