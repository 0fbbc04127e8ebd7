"""What training pays for being over a budget: the paper's penalty, and an augmented Lagrangian."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from qcore_hetero_diffq.budget.ledger import Ledger
from qcore_hetero_diffq.network import learned_grids

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qcore.methods import Progress

__all__ = ["AugmentedLagrangian", "Keep", "SquaredHinge", "clip_to_step"]

KB = 1000.0
STIFFEST = 1e4


@dataclass(frozen=True)
class SquaredHinge:
    """``s(t) * weight * relu(S - T)**2`` for each limit, in units of 1000 bytes: the paper's penalty.

    Its gradient vanishes at the limit, so that it comes to rest above it wherever more bits would help. ``s(t)`` is the
    ledger's ramp.

    Source: Schaefer et al., WACV 2024, arXiv:2206.07741; Uhlich et al. 2020, arXiv:1905.11452, equation 9.
    """

    weight: float

    def __call__(self, model: nn.Module) -> Tensor:
        """Return the penalty, float32 ()."""
        ledger = Ledger.of(model)
        over = torch.stack([ledger.taken(model, name) - limit for name, limit in ledger.limits.items()]) / KB
        return ledger.ramp * self.weight * over.clamp_min(0).square().sum()


@dataclass(frozen=True)
class AugmentedLagrangian:
    """``(relu(mu + rho c)**2 - mu**2) / (2 rho)`` with ``c = (S - T) / (T - F)``, summed over limits.

    In relative units, less what no width changes (``F``), one stiffness serves every network. ``mu``, ``rho`` and the
    aim ``T`` are the ledger's;
    :class:`Keep` moves the former two, the latter glides from what the network takes to its limit, so that the price of
    a byte stays near the one at which as many rows want to widen as to narrow, and rows part from each other.

    Source: Nocedal and Wright 2006, Numerical Optimization, section 17.4.
    """

    def __call__(self, model: nn.Module) -> Tensor:
        """Return the penalty, float32 ()."""
        ledger = Ledger.of(model)
        mu, rho, over = ledger.multiplier, ledger.stiffness, ledger.over(model)
        return (((mu + rho * over).clamp_min(0).square() - mu.square()) / (2 * rho)).sum()


@dataclass(frozen=True)
class Keep:
    """After each step of the quantizers' optimizer: boxes are kept, and the Lagrangian's multipliers move.

    ``mu <- relu(mu + rho c)``; every ``patience``-th time ``rho`` doubles where ``c`` is above 0 and has not shrunk to
    nine tenths since.

    Attributes:
        every: the optimizer steps at each so-manieth step.
        multipliers: whether there are any.
        patience: how many updates are waited for.
    """

    every: int
    multipliers: bool = False
    patience: int = 20

    @torch.no_grad()
    def __call__(self, model: nn.Module, progress: Progress) -> None:
        """Project, and move the multipliers."""
        if (progress.step + 1) % self.every:
            return
        for quantizer in learned_grids(model):
            quantizer.project()
        if not self.multipliers:
            return
        ledger = Ledger.of(model)
        over = ledger.over(model)
        ledger.multiplier.add_(ledger.stiffness * over).clamp_(min=0)
        if ((progress.step + 1) // self.every) % self.patience == 0:
            slow = (over > 0) & (over > 0.9 * ledger.excess)
            ledger.stiffness.mul_(1 + slow.float()).clamp_(max=STIFFEST)
            ledger.excess.copy_(over)


def clip_to_step(model: nn.Module, progress: Progress) -> None:
    """Clip the gradients of steps and ranges to the step's size: a Phase's ``after_backward``, as in the paper."""
    for quantizer in learned_grids(model):
        quantizer.clip_gradients()
