"""MixtureOfExperts: a router, and experts that may each have another precision."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from qcore.errors import ConfigError
from qcore.routers.base import Router, Routing

__all__ = ["MixtureOfExperts", "load_balance"]


class MixtureOfExperts(nn.Module):
    """Groups samples by expert and calls each expert once a batch.

    ``y = sum_e w_e(x) f_e(t(x))`` over the experts of non-zero weight; ``t`` is a trunk shared by all experts, computed
    once a sample, and the identity by default. The router sees ``x`` itself.

    Attributes:
        experts: any modules, all with the same output shape.
        router: one that knows as many experts.
        trunk: the shared part, or None.
        last_routing: the routing of the latest call, with its gradient in training; None before the first.
    """

    def __init__(self, experts: Iterable[nn.Module], router: Router, trunk: nn.Module | None = None) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.router = router
        self.trunk = trunk
        self.last_routing: Routing | None = None
        if len(self.experts) != router.experts:
            raise ConfigError(f"{len(self.experts)} experts for a router of {router.experts}")

    def forward(self, x: Tensor) -> Tensor:
        """Return the experts' output for ``x`` (rows, features): (rows, ...)."""
        routing = self.router(x)
        self.last_routing = routing
        features = x if self.trunk is None else self.trunk(x)
        return self.combine(features, routing)

    def combine(self, features: Tensor, routing: Routing) -> Tensor:
        """Return the weighted sum of the experts' outputs for ``features`` (rows, ...)."""
        out: Tensor | None = None
        called = routing.weights.detach() != 0
        for index, expert in enumerate(self.experts):
            rows = called[:, index].nonzero().squeeze(1)
            if rows.numel() == 0:
                continue
            part = expert(features[rows])
            weight = routing.weights[rows, index].reshape(-1, *([1] * (part.dim() - 1))).to(part.dtype)
            if out is None:
                out = part.new_zeros(features.shape[0], *part.shape[1:])
            out = out.index_add(0, rows, part * weight)
        # No row called any expert: an empty batch, or weights of nothing but zeros.
        return torch.zeros_like(self.experts[0](features)) if out is None else out

    def visits(self) -> list[int]:
        """Return how many rows of the latest call each expert saw; empty before the first call."""
        if self.last_routing is None:
            return []
        counts: list[int] = (self.last_routing.weights != 0).sum(dim=0).tolist()
        return counts

    def __deepcopy__(self, memo: dict[int, object]) -> MixtureOfExperts:
        # The latest routing may carry a graph, which cannot be copied and is nobody's state.
        routing, self.last_routing = self.last_routing, None
        try:
            copied = type(self).__new__(type(self))
            memo[id(self)] = copied
            copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        finally:
            self.last_routing = routing
        return copied


def load_balance(routing: Routing) -> Tensor:
    """Return ``E sum_e F_e P_e``, the Switch balance loss; 1 when balanced, E when all rows go to one expert.

    ``F_e`` is the share of rows whose expert of largest weight is e (no gradient) and ``P_e`` the mean probability
    (Fedus et al. 2021, eq. 4-6).
    """
    probabilities = routing.probabilities
    experts = probabilities.shape[1]
    shares = torch.bincount(routing.experts, minlength=experts).to(probabilities.dtype) / max(len(probabilities), 1)
    return experts * (shares * probabilities.mean(dim=0)).sum()
