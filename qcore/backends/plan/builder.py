"""Builder: what says a module in steps, as rooms below ``qcore.nn`` know it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from qcore.backends.plan.base import Value

__all__ = ["Builder"]


class Builder(Protocol):
    """What a router needs of ``qcore.nn.PlanBuilder``, which has the other steps too."""

    def lower(self, module: nn.Module, x: Value, *, precise: bool = False) -> Value:
        """Return what ``module`` gives for ``x``; in float64, of float linear layers and ReLU alone, if ``precise``."""

    def softmax(self, x: Value) -> Value:
        """Add a softmax over the last axis; float64."""

    def choose(self, p: Value, k: int) -> Value:
        """Add the shares of the ``k`` largest of float64 ``p``; a router ends so."""

    def constant(self, x: Value, numbers: Tensor) -> Value:
        """Add the same ``numbers`` for every sample of ``x``, on the model's device."""
