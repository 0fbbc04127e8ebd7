"""The built-in method ``core/float``: the task's network in float32, trained and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from qcore.methods.base import Arm, Method
from qcore.methods.config import FloatConfig, MethodConfig
from qcore.methods.phases import Phase

if TYPE_CHECKING:
    import torch
    from torch import nn

    from qcore.tasks.base import Task

__all__ = ["FloatMethod"]


class FloatMethod(Method):
    """The float32 network alone, with one arm ``float``."""

    Config: ClassVar[type[MethodConfig]] = FloatConfig

    def arms(self) -> list[Arm]:
        """Return the one arm."""
        return [Arm("float", "the network in float32", baseline=True)]

    def build(self, arm: Arm, task: Task, generator: torch.Generator, sources: Mapping[str, nn.Module]) -> nn.Module:
        """Return the task's default network."""
        return self.network(task, generator)

    def phases(self, arm: Arm) -> list[Phase]:
        """Return one phase."""
        return [self.main_phase()]
