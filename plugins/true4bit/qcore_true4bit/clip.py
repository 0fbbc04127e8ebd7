"""The soft clip: a projection of the weights after each step of the optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from qcore.methods import Progress

__all__ = ["PAPER_STEPS", "SoftClip"]

PAPER_STEPS = 391
"""Steps an epoch in the paper: 50,000 images in batches of 128."""


@dataclass(frozen=True)
class SoftClip:
    """``W <- a tanh(W / a)`` on every parameter of two or more dimensions, in place and in float32.

    It is no part of the gradient. Since ``a tanh(w / a) = w - w^3 / (3 a^2) + ...`` it acts as a cubic decay once a
    step, whatever the learning rate; ``per_epoch`` keeps its strength over an epoch where that has another number of
    steps than the paper's 391: ``a' = a sqrt(steps / 391)``.

    Attributes:
        a: the bound; 3 in the paper.
        per_epoch: whether to scale it.

    Source: Tathe 2026, arXiv:2603.13931, equation 9; the scaling is ours.
    """

    a: float = 3.0
    per_epoch: bool = False

    @torch.no_grad()
    def __call__(self, model: nn.Module, progress: Progress) -> None:
        """Clip; a Phase calls it after each step."""
        bound = self.bound(progress.steps / progress.epochs)
        weights = [parameter.data for parameter in model.parameters() if parameter.dim() >= 2]
        torch._foreach_div_(weights, bound)
        torch._foreach_tanh_(weights)
        torch._foreach_mul_(weights, bound)

    def bound(self, steps_per_epoch: float) -> float:
        """Return the bound for an epoch of so many steps."""
        return self.a * math.sqrt(steps_per_epoch / PAPER_STEPS) if self.per_epoch else self.a
