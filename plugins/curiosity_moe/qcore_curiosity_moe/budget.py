"""Precision budgets: how far the prior may lean to many bits, found on calibration rows.

A budget is a limit: the bias that keeps it is never positive, so that no row is given more bits than the router chose.
It sends rows to experts that the router did not choose for them, so the experts should be trained on all rows, each
alone: one that was trained jointly knows only the rows that it was sent.

For each row the top-1 expert maximises ``log p_i + t_row beta_i``, a maximum of lines in ``t_row``. With
``t_row = alpha u + bias`` its beta never falls as alpha or the bias rises, so mean bits and the share of the most
precise expert are monotone in both, and bisection finds the largest setting that keeps within the budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qcore.errors import CalibrationError
from qcore_curiosity_moe.bayesian import ROWS_AT_ONCE, BayesianRouter

__all__ = ["Budget", "Spending", "meet_budget", "spending"]

STEPS = 60
WIDEST = 64.0
"""exp(64) outweighs any ratio of two probabilities that a router gives in practice."""


@dataclass(frozen=True)
class Budget:
    """A limit: most mean ``bits`` a row, or the largest ``share`` of rows for the expert of most bits; one of them."""

    bits: float | None = None
    share: float | None = None

    @property
    def is_set(self) -> bool:
        """Whether there is a limit at all."""
        return self.bits is not None or self.share is not None

    def __str__(self) -> str:
        return f"at most {self.bits:g} mean bits" if self.bits is not None else f"at most {self.share:g} of the rows"

    def met_by(self, spent: Spending) -> bool:
        """Whether ``spent`` keeps within the limit."""
        if self.bits is not None:
            return spent.bits <= self.bits
        return self.share is None or spent.share <= self.share


@dataclass(frozen=True)
class Spending:
    """What a routing spends: mean ``bits`` a row, and the ``share`` of rows that went to the expert of most bits."""

    bits: float
    share: float


def spending(experts: Tensor, bits: Sequence[float]) -> Spending:
    """Return what ``experts`` (rows,) int64 spend, each costing its ``bits``."""
    widths = torch.tensor(list(bits), dtype=torch.float64)[experts.cpu()]
    return Spending(float(widths.mean()), float((widths == max(bits)).double().mean()))


@torch.no_grad()
def meet_budget(
    router: BayesianRouter, x: Tensor, bits: Sequence[float], budget: Budget, knob: str = "bias"
) -> Spending:
    """Set ``router.bias`` (or ``router.alpha``) to the largest value that keeps within ``budget`` on ``x``.

    Args:
        router: calibrated; its config has ``k = 1``.
        x: calibration rows (rows, in_features) as the router sees them.
        bits: width of each expert.
        budget: the limit.
        knob: ``bias``, which can go down to the cheapest expert alone and goes no higher than 0, or ``alpha``, which
            goes up from the routing without a prior.

    Returns:
        What the router spends on ``x`` now.

    Raises:
        CalibrationError: no setting keeps within the budget; the router is left as it was.
    """
    training = router.training
    router.eval()
    target = router.bias if knob == "bias" else router.alpha
    before = target.clone()
    spent_at = _spender(router, x, bits, target)
    low, high = (-WIDEST, 0.0) if knob == "bias" else (0.0, WIDEST)
    if not budget.met_by(spent_at(low)):
        least = spent_at(low)
        target.copy_(before)
        router.train(training)
        raise CalibrationError(
            f"a budget of {budget} cannot be met: {knob} = {low:g} still spends {least.bits:.3g} mean bits, "
            f"and {least.share:.3g} of the rows go to the most precise expert",
            "raise the budget" + ("" if knob == "bias" else ", or set budget_knob=bias"),
        )
    found = spent_at(_largest(lambda value: budget.met_by(spent_at(value)), low, high))
    router.train(training)
    return found


def _spender(router: BayesianRouter, x: Tensor, bits: Sequence[float], target: Tensor) -> Callable[[float], Spending]:
    """Return a function of the knob's value; the masked passes, which do not depend on it, are made once."""
    parts = []
    for rows in torch.split(x, ROWS_AT_ONCE):
        passes, base = router.probabilities(rows)
        parts.append((passes, base, router.normalise(router.raw_uncertainty(passes))))

    def spent_at(value: float) -> Spending:
        target.fill_(value)
        chosen = [router.choose(router.apply_prior(base, passes, u).float())[:, 0] for passes, base, u in parts]
        return spending(torch.cat(chosen), bits)

    return spent_at


def _largest(within: Callable[[float], bool], low: float, high: float) -> float:
    """Return the largest value in [low, high] for which the monotone ``within`` is true; it is at ``low``."""
    if within(high):
        return high
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return low
