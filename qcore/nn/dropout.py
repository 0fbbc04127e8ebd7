"""Dropout with a generator of its own, so that nothing draws from the global random state."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qcore.errors import ConfigError

if TYPE_CHECKING:
    from qcore.backends.plan import Value
    from qcore.nn.plan import PlanBuilder

__all__ = ["Dropout", "generator_on", "set_generator"]


class Dropout(nn.Module):
    """Zeroes a share ``p`` of the elements in training and scales the others by ``1 / (1 - p)``.

    Attributes:
        p: the share dropped.
        generator: where masks are drawn from; None: one of its own, of seed 0, is made on first use.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ConfigError(f"the share dropped is between 0 and 1, not {p}")
        self.p = p
        self.generator: torch.Generator | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x``, in training with a share of its elements dropped."""
        if not self.training or self.p == 0:
            return x
        self.generator = generator_on(self.generator, x.device)
        kept = torch.rand(x.shape, generator=self.generator, device=x.device) >= self.p
        return x * kept.to(x.dtype) / (1 - self.p if self.p < 1 else 1)

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say it in the steps of a plan: nothing."""
        return x

    def extra_repr(self) -> str:
        """Return the share dropped."""
        return f"p={self.p}"


def generator_on(generator: torch.Generator | None, device: torch.device) -> torch.Generator:
    """Return ``generator``, or a new one of its seed if it is on another device than ``device``; None: of seed 0."""
    if generator is not None and generator.device == device:
        return generator
    return torch.Generator(device).manual_seed(0 if generator is None else generator.initial_seed())


def set_generator(model: nn.Module, generator: torch.Generator) -> None:
    """Give ``generator`` to every module of ``model`` that has an attribute of that name."""
    for module in model.modules():
        if hasattr(module, "generator"):
            setattr(module, "generator", generator)  # noqa: B010 - not every module has it
