"""``core/uniform``: every expert answers every sample, with equal weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qcore.routers.base import Router, Routing
from qcore.routers.config import UniformConfig

if TYPE_CHECKING:
    from qcore.backends.plan import Builder, Value

__all__ = ["UniformRouter"]


class UniformRouter(Router):
    """Weights and probabilities ``1 / experts``: the mean of the experts."""

    Config = UniformConfig

    def forward(self, x: Tensor) -> Routing:
        """Route ``x``, float (rows, in_features)."""
        share = x.new_full((x.shape[0], self.experts), 1.0 / self.experts).float()
        return Routing(share, share)

    def plan(self, builder: Builder, x: Value) -> Value:
        """Say the weights in the steps of a plan."""
        return builder.constant(x, torch.full((self.experts,), 1.0 / self.experts))
