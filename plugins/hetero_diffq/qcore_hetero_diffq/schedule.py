"""Learning rates over phases, and what happens before a step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from qcore.errors import QcoreError
from qcore_hetero_diffq.budget.allocate import Search
from qcore_hetero_diffq.budget.ledger import Ledger
from qcore_hetero_diffq.network import inputs_of, learned_grids

if TYPE_CHECKING:
    from torch import nn

    from qcore.methods import Progress

__all__ = ["Mixed", "Project", "WarmCosine"]

GLIDE_UNTIL = 0.7
"""Share of the mixed phase after which the Lagrangian's aim is the limit."""
RAMP_FROM, RAMP_UNTIL = 0.01, 0.5
"""The paper's penalty rises from a hundredth to all of it over the first half of the mixed phase."""


@dataclass(frozen=True)
class WarmCosine:
    """From 0 to 1 within the first share ``warm`` of a phase, then by half a cosine to 0."""

    warm: float

    def __call__(self, fraction: float) -> float:
        """Return the multiplier at ``fraction`` of the phase."""
        if fraction < self.warm:
            return fraction / self.warm
        return (1 + math.cos(math.pi * (fraction - self.warm) / max(1 - self.warm, 1e-12))) / 2


@dataclass(frozen=True)
class Mixed:
    """A Phase's ``before_step`` while widths are learned: what is aimed at, and which steps gradients are noted at.

    Ranges are learned from here on, so batches tell them no more.

    Attributes:
        every: gradients are noted at each so-manieth step.
        margin: share below the limit that is aimed at.
    """

    every: int
    margin: float

    def __call__(self, model: nn.Module, progress: Progress) -> None:
        """Set both."""
        if not progress.step:
            for inputs in inputs_of(model).values():
                inputs.settle()
        watching = (progress.step + 1) % self.every == 0
        for quantizer in learned_grids(model):
            quantizer.watching = watching
        ledger = Ledger.of(model)
        ledger.ramp.fill_(RAMP_FROM + min(1.0, progress.fraction / RAMP_UNTIL) * (1 - RAMP_FROM))
        ledger.glide(model, min(1.0, progress.fraction / GLIDE_UNTIL), self.margin)


@dataclass(frozen=True)
class Project:
    """A Phase's ``before_step``: at its first, widths are chosen that keep the budget, and stand still from then on.

    Attributes:
        levels: what a row of weights chooses among.
        samples: of a batch.
        learned: whether a row may get no more than one bit above the width it learned, while that spends the budget.
    """

    levels: tuple[int, ...]
    samples: int
    learned: bool = True

    @torch.no_grad()
    def __call__(self, model: nn.Module, progress: Progress) -> None:
        """Choose once."""
        if progress.step:
            return
        for quantizer in learned_grids(model):
            quantizer.watching = False
        ledger = Ledger.of(model)
        search = Search(
            model, ledger.limits, ledger.rules, levels=self.levels, samples=self.samples, learned=self.learned
        )
        found = search.run()
        if found is None:
            raise QcoreError(
                "the file grew while it was trained, so that its budget cannot be kept any more",
                "report this: what a file holds beside codes should not change in training",
            )
