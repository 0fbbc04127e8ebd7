"""Learning rates of resident layers. They have no optimizer, so a phase's ``before_step`` sets them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qcore_true4bit.resident.layers import ResidentLayer

if TYPE_CHECKING:
    from torch import nn

    from qcore.methods import Progress

__all__ = ["ResidentRates", "set_rates"]


def set_rates(model: nn.Module, *, lr: float, weight_decay: float = 0.0) -> None:
    """Set the learning rate and the decoupled weight decay of all resident layers of ``model``; ``lr`` 0 freezes."""
    for module in model.modules():
        if isinstance(module, ResidentLayer):
            module.lr, module.weight_decay = lr, weight_decay


@dataclass(frozen=True)
class ResidentRates:
    """Sets the rates of each step: a ``Phase.before_step``. The defaults are for rates in units of codes.

    Attributes:
        lr: learning rate before the schedule, in the unit of :class:`ResidentConfig`.
        schedule: maps ``Progress.fraction`` to a multiplier of ``lr``, or None. Without a residual it is to end near 0:
            rounding is noise that falls with the rate alone.
        weight_decay: decoupled, as AdamW's: the share ``lr * weight_decay`` of each code a step. Rounding makes codes
            spread to the ends of their range in a long training, and this draws them back.
    """

    lr: float = 0.3
    schedule: Callable[[float], float] | None = None
    weight_decay: float = 0.02

    def __call__(self, model: nn.Module, progress: Progress) -> None:
        """Set the rates of the step at ``progress``."""
        multiplier = 1.0 if self.schedule is None else self.schedule(progress.fraction)
        set_rates(model, lr=self.lr * multiplier, weight_decay=self.weight_decay)
