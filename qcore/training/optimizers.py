"""Optimizers of a phase: who trains which parameter, and their schedules."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import torch
from torch import nn

from qcore.errors import UsageError

if TYPE_CHECKING:
    from qcore.training.phases import OptimizerConfig, Phase

__all__ = ["make_optimizers", "set_schedules", "set_trainable"]


def set_trainable(model: nn.Module, phase: Phase) -> list[tuple[str, nn.Parameter]]:
    """Set ``requires_grad`` of every floating parameter as ``phase`` says and return those that it trains."""
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point():
            parameter.requires_grad_(phase.trainable is None or phase.trainable(name))
    chosen = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    if not chosen:
        raise UsageError(f"phase {phase.name!r} trains no parameter", "see its 'trainable'")
    return chosen


def make_optimizers(
    parameters: Sequence[tuple[str, nn.Parameter]], phase: Phase
) -> list[tuple[OptimizerConfig, torch.optim.Optimizer]]:
    """Return an optimizer for each config of ``phase`` that has parameters; the first matching glob takes a parameter.

    Raises:
        UsageError: a parameter that no glob matches, or a glob that matches none.
    """
    groups: list[list[nn.Parameter]] = [[] for _ in phase.optimizers]
    for name, parameter in parameters:
        matches = [i for i, config in enumerate(phase.optimizers) if fnmatchcase(name, config.params)]
        if not matches:
            globs = ", ".join(repr(config.params) for config in phase.optimizers)
            raise UsageError(
                f"phase {phase.name!r}: no optimizer takes the parameter {name!r} (they take {globs})",
                "end the list with params='*', or leave the parameter out of 'trainable'",
            )
        groups[matches[0]].append(parameter)
    return [(config, _make(config, group)) for config, group in zip(phase.optimizers, groups, strict=True) if group]


def set_schedules(optimizers: Sequence[tuple[OptimizerConfig, torch.optim.Optimizer]], fraction: float) -> None:
    """Set learning rate and weight decay for the step at ``fraction`` of the phase."""
    for config, optimizer in optimizers:
        lr = config.lr * (config.lr_schedule(fraction) if config.lr_schedule else 1.0)
        decay = config.weight_decay * (config.weight_decay_schedule(fraction) if config.weight_decay_schedule else 1.0)
        for group in optimizer.param_groups:
            group["lr"], group["weight_decay"] = lr, decay


def _make(config: OptimizerConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    # Fused: networks here are so small that a loop over parameters would take a third of a step.
    fused = all(parameter.device.type in {"cpu", "cuda"} for parameter in parameters)
    lr, decay = config.lr, config.weight_decay
    if config.name == "sgd":
        return torch.optim.SGD(parameters, lr=lr, momentum=config.momentum, weight_decay=decay, fused=fused)
    if config.name == "rmsprop":
        return torch.optim.RMSprop(
            parameters, lr=lr, alpha=config.smoothing, eps=config.eps, momentum=config.momentum, weight_decay=decay
        )
    kind = torch.optim.AdamW if config.name == "adamw" else torch.optim.Adam
    return kind(parameters, lr=lr, weight_decay=decay, fused=fused)
