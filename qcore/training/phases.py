"""Phases: how a method says what to train, when and how, without writing a loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["CosinePart", "OptimizerConfig", "Phase", "Progress"]


@dataclass(frozen=True)
class Progress:
    """Where a phase stands: ``step`` of ``steps`` and ``epoch`` of ``epochs``, all counted from 0."""

    step: int
    steps: int
    epoch: int
    epochs: int

    @property
    def fraction(self) -> float:
        """The part of the phase that is done, 0 at its first step and below 1 at its last."""
        return self.step / self.steps


@dataclass(frozen=True)
class CosinePart:
    """A schedule: the part of a half cosine from 1 to 0 that lies between two shares of it.

    So several phases can share one cosine.
    """

    begin: float = 0.0
    end: float = 1.0

    def __call__(self, fraction: float) -> float:
        """Return the multiplier at ``fraction`` of the part."""
        return (1 + math.cos(math.pi * (self.begin + fraction * (self.end - self.begin)))) / 2


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """One optimizer, and the parameters it moves.

    Attributes:
        name: which optimizer of torch.
        lr: learning rate before the schedule.
        weight_decay: decoupled for ``adamw``, added to the gradient for the others.
        momentum: of ``sgd`` and ``rmsprop``.
        smoothing: share of the mean of squared gradients that a step of ``rmsprop`` leaves.
        eps: of ``rmsprop``, added to the root of that mean.
        every: it steps at the last of so many steps, and looks at that step's gradient alone; what it remembers stands
            still between.
        params: a glob over parameter names. Of several optimizers, the first whose glob matches a name has it.
        lr_schedule: maps ``Progress.fraction`` to a multiplier of ``lr``, before each step.
        weight_decay_schedule: the same for ``weight_decay``.
    """

    name: Literal["adamw", "adam", "sgd", "rmsprop"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.0
    smoothing: float = 0.9
    eps: float = 1e-3
    every: int = 1
    params: str = "*"
    lr_schedule: Callable[[float], float] | None = None
    weight_decay_schedule: Callable[[float], float] | None = None


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One stretch of training.

    Attributes:
        name: its name in the history.
        epochs: the most epochs it takes.
        optimizers: every trainable parameter belongs to exactly one of them.
        batch_size: samples a step.
        label_smoothing: handed to the task's loss.
        grad_clip: largest norm of all gradients together, or None.
        patience: epochs without a better validation score before the phase ends, or None.
        min_delta: by how much a score must be better to count.
        restore_best: whether the phase ends with the weights of its best epoch, by validation score.
        trainable: says of a parameter's name whether this phase trains it; None trains all.
        penalty: a scalar that is added to the loss of each step.
        before_step: called with the model before each step's forward pass.
        after_backward: called with the model once gradients are there, before any is clipped or taken a step along.
        after_step: called with the model after each optimizer step, without gradient: projections go here.
        after_epoch: called with the model after each epoch, without gradient; ``epoch`` of its progress is the one that
            ended. What it returns, plain JSON data, stands in the history's row under ``observed``.
    """

    name: str
    epochs: int
    optimizers: tuple[OptimizerConfig, ...] = (OptimizerConfig(),)
    batch_size: int = 64
    label_smoothing: float = 0.0
    grad_clip: float | None = None
    patience: int | None = None
    min_delta: float = 0.0
    restore_best: bool = True
    trainable: Callable[[str], bool] | None = None
    penalty: Callable[[nn.Module], Tensor] | None = None
    before_step: Callable[[nn.Module, Progress], None] | None = None
    after_backward: Callable[[nn.Module, Progress], None] | None = None
    after_step: Callable[[nn.Module, Progress], None] | None = None
    after_epoch: Callable[[nn.Module, Progress], Mapping[str, Any]] | None = None
