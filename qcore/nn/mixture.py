"""MixtureOfExperts: a router, and experts that may each have another precision."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qcore.backends.base import Kernel
from qcore.backends.plan.routing import combine
from qcore.errors import ConfigError
from qcore.nn.packed import Grouped, group_experts, kernel_of
from qcore.routers.base import Router, Routing

if TYPE_CHECKING:
    from qcore.backends.plan import Value
    from qcore.nn.plan import PlanBuilder

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
        self._kernels: tuple[Kernel | None, ...] = ()
        self._run: Grouped | None = None
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
        weights = routing.weights
        # One call for all experts carries no gradient to the router, and sums in float32 alone.
        differentiable = torch.is_grad_enabled() and weights.requires_grad
        alike = features.dim() == 2 and features.dtype is torch.float32 and weights.dtype is torch.float32
        grouped = self._grouped() if alike and not differentiable else None
        if grouped is not None:
            return grouped(features, weights)
        return combine(list(self.experts), features, weights)

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say it in the steps of a plan."""
        weights = builder.lower(self.router, x)
        features = x if self.trunk is None else builder.lower(self.trunk, x)
        return builder.experts(features, weights, self.experts)

    def _grouped(self) -> Grouped | None:
        """Return what runs all experts in one call, if they are packed linear layers that one backend runs."""
        kernels = tuple(kernel_of(expert) for expert in self.experts)
        if kernels != self._kernels:  # made anew when a layer is moved or loaded
            self._kernels, self._run = kernels, group_experts(self.experts)
        return self._run

    def visits(self) -> list[int]:
        """Return how many rows of the latest call each expert saw; empty before the first call."""
        if self.last_routing is None:
            return []
        counts: list[int] = (self.last_routing.weights != 0).sum(dim=0).tolist()
        return counts

    def __deepcopy__(self, memo: dict[int, object]) -> MixtureOfExperts:
        # The latest routing may carry a graph, which cannot be copied and is nobody's state.
        # What runs the experts belongs to their kernels, which copies make anew.
        lost = {"last_routing": None, "_kernels": (), "_run": None}
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        kept = {name: value for name, value in self.__dict__.items() if name not in lost}
        copied.__dict__.update(copy.deepcopy(kept, memo) | lost)
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
