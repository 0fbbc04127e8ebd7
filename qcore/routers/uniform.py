"""``core/uniform``: every expert answers every sample, with equal weight."""

from __future__ import annotations

from torch import Tensor

from qcore.routers.base import Router, Routing
from qcore.routers.config import UniformConfig

__all__ = ["UniformRouter"]


class UniformRouter(Router):
    """Weights and probabilities ``1 / experts``: the mean of the experts."""

    Config = UniformConfig

    def forward(self, x: Tensor) -> Routing:
        """Route ``x``, float (rows, in_features)."""
        share = x.new_full((x.shape[0], self.experts), 1.0 / self.experts).float()
        return Routing(share, share)
