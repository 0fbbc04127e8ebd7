"""What a bit costs: a price on the mean width, and a budget that moves it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from qcore_nmpqat.allocation import narrow_or_widen
from qcore_nmpqat.network import mean_bits, neurons, weight_counts
from qcore_nmpqat.quantizers.noise import NoiseQuantizer

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qcore.methods import Progress

__all__ = ["BitPrice", "DualAscent", "Glide", "SpendBudget", "meet_own_budget"]


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
        _move_price(model, self.budget, self.rate)


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
        if not _begins_epoch(progress) or (progress.step and self.ramp is None):
            return
        lowest, now = next(iter(neurons(model).values()))[1].config.widths[0], float(mean_bits(model))
        allowed = self.budget if self.ramp is None else _on_the_way(lowest, self.budget, self.ramp, progress.fraction)
        if self.ramp is None or now < allowed:
            _bring_to(model, allowed)


@dataclass(frozen=True)
class Glide:
    """Leads networks of ``nmpqat/noise`` from where they begin to their own budgets, by price and by hand.

    The mean width is to be ``aim``, which goes from ``start`` to ``NoiseQuantizer.budget`` between two shares of the
    phase. Dual ascent moves the price as for ``nmpqat``. And since logits that all begin alike would cross a threshold
    together, the mean is brought to the aim, to a neuron and both ways, before each epoch.

    Attributes:
        start: hard width that neurons begin with.
        ramp: the shares.
        rate: by how much the price moves a step for each bit over the aim.
    """

    start: float
    ramp: tuple[float, float]
    rate: float

    def aim(self, model: nn.Module, progress: Progress) -> float:
        """Return the mean width that ``model`` is to have."""
        return _on_the_way(self.start, _own_budget(model), self.ramp, progress.fraction)

    @torch.no_grad()
    def before_step(self, model: nn.Module, progress: Progress) -> None:
        """Change logits, once an epoch: a Phase's ``before_step``."""
        if _begins_epoch(progress):
            _bring_close_to(model, self.aim(model, progress))

    @torch.no_grad()
    def after_step(self, model: nn.Module, progress: Progress) -> None:
        """Move the price: a Phase's ``after_step``."""
        _move_price(model, self.aim(model, progress), self.rate)


@torch.no_grad()
def meet_own_budget(model: nn.Module, progress: Progress) -> None:
    """Bring a network of ``nmpqat/noise`` to its budget at a phase's first step: a Phase's ``before_step``."""
    if not progress.step:
        _bring_close_to(model, _own_budget(model))


def _own_budget(model: nn.Module) -> float:
    quantizer = next(iter(neurons(model).values()))[1]
    assert isinstance(quantizer, NoiseQuantizer)
    return float(quantizer.budget)


def _begins_epoch(progress: Progress) -> bool:
    return progress.step % max(1, progress.steps // progress.epochs) == 0


def _on_the_way(start: float, end: float, ramp: tuple[float, float], fraction: float) -> float:
    first, last = ramp
    return start + (end - start) * min(1.0, max(0.0, (fraction - first) / (last - first)))


def _move_price(model: nn.Module, budget: float, rate: float) -> None:
    over = mean_bits(model) - budget
    for _, quantizer in neurons(model).values():
        quantizer.price.add_(over, alpha=rate).clamp_(min=0)


def _bring_close_to(model: nn.Module, allowed: float) -> None:
    """Bring the mean width to ``allowed``; where the last neuron that narrowed freed too much, others may have it."""
    _bring_to(model, allowed)
    _bring_to(model, allowed)


def _bring_to(model: nn.Module, allowed: float) -> None:
    """Widen or narrow neurons until the mean width of a weight is ``allowed``, or just below."""
    layers = list(neurons(model).values())
    counts = torch.cat([torch.full_like(q.demand, weight_counts(layer)) for layer, q in layers])
    strengths = torch.cat([q.strength for _, q in layers])
    demand = torch.cat([q.demand for _, q in layers]) / counts
    levels = torch.cat([q.levels() for _, q in layers])
    chosen = narrow_or_widen(strengths, demand, levels, counts, layers[0][1].config, allowed)
    sizes = [len(quantizer.level) for _, quantizer in layers]
    for (_, quantizer), part in zip(layers, torch.split(chosen, sizes), strict=True):
        quantizer.set_levels(part)
