"""Learning rates of the paper: a cosine for each epoch, whose half period may end before the training does."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["PAPER_HALF_PERIOD", "EpochCosine"]

PAPER_HALF_PERIOD = 100
"""``T_max`` of the paper's scheduler, which ran for 150 epochs: the rate rises again after the 100th."""


@dataclass(frozen=True)
class EpochCosine:
    """``(1 + cos(pi e / half_period)) / 2`` in epoch ``e``, counted from 0; maps the share done to a multiplier.

    Source: the learning rates in the logs of Tathe 2026, arXiv:2603.13931; its text calls them warm restarts.
    """

    epochs: int
    half_period: int

    def __call__(self, fraction: float) -> float:
        """Return the multiplier; constant over an epoch."""
        epoch = math.floor(fraction * self.epochs + 1e-6)  # an epoch's first step must not fall into the one before
        return 0.5 * (1 + math.cos(math.pi * epoch / self.half_period))
