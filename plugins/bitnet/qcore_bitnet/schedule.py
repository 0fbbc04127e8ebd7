"""The two-stage schedule of learning rate and weight decay, and the ramp of a conversion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcore_bitnet.weights import Ramped

if TYPE_CHECKING:
    from torch import nn

    from qcore.methods import Progress

__all__ = ["Ramp", "TwoStageDecay", "TwoStageRate"]


@dataclass(frozen=True)
class TwoStageRate:
    """The learning rate over its peak, as a function of the fraction ``f`` of the steps that are done.

    Stage 1 falls linearly from 1 to ``stage1_end``; at ``switch`` the rate jumps to ``stage2_start`` and falls linearly
    to 0. (1.5e-3 to 8e-4, then 5e-4 to 0 in "The Era of 1-bit LLMs: Training Tips, Code and FAQ": 0.53 and 0.33.)

    Attributes:
        switch: the fraction at which stage 2 begins, in (0, 1).
        stage1_end: the multiplier at the end of stage 1.
        stage2_start: the multiplier at the start of stage 2.
    """

    switch: float = 0.5
    stage1_end: float = 0.53
    stage2_start: float = 0.33

    def __call__(self, fraction: float) -> float:
        """Return the multiplier of the peak at ``fraction``."""
        if fraction < self.switch:
            return 1.0 - (1.0 - self.stage1_end) * fraction / self.switch
        return self.stage2_start * max(1.0 - fraction, 0.0) / (1.0 - self.switch)


@dataclass(frozen=True)
class TwoStageDecay:
    """The weight decay over its first value: 1 in stage 1, 0 in stage 2."""

    switch: float = 0.5

    def __call__(self, fraction: float) -> float:
        """Return the multiplier at ``fraction``."""
        return 1.0 if fraction < self.switch else 0.0


@dataclass(frozen=True)
class Ramp:
    """Fades the quantizers in: ``lambda = min(step / steps, 1)``. A ``Phase.before_step``; eval mode has no ramp."""

    steps: int

    def __call__(self, model: nn.Module, progress: Progress) -> None:
        """Set ``blend`` of every quantizer of ``model`` that has one."""
        blend = 1.0 if self.steps == 0 else min(progress.step / self.steps, 1.0)
        for module in model.modules():
            if isinstance(module, Ramped):
                module.blend = blend
