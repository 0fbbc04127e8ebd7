"""Router: the interface of everything that assigns samples to experts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn

from qcore.routers.config import RouterConfig

__all__ = ["Router", "Routing"]


@dataclass(frozen=True)
class Routing:
    """Where each sample goes.

    Attributes:
        weights: float32 (rows, experts); the output is the weighted sum of the experts', and 0 means not called.
        probabilities: float32 (rows, experts), each row sums to 1.
        uncertainty: nats, float32 (rows,), >= 0; None where the router knows none.
        extras: further evidence by name, each (rows, ...).
    """

    weights: Tensor
    probabilities: Tensor
    uncertainty: Tensor | None = None
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def experts(self) -> Tensor:
        """The expert of largest weight, int64 (rows,); the lowest index wins a tie."""
        return self.weights.detach().argmax(dim=1)


class Router(nn.Module, ABC):
    """Assigns each sample to experts.

    In eval mode the decision for a row depends on that row alone: neither on its batch mates nor on the batch size.

    Attributes:
        config: the frozen config it was made with.
        spec_id: ``plugin/name``, set when the registry makes it.
    """

    Config: ClassVar[type[RouterConfig]] = RouterConfig

    def __init__(self, config: RouterConfig) -> None:
        super().__init__()
        self.config = config
        self.spec_id = ""

    @property
    def experts(self) -> int:
        """The number of experts."""
        return self.config.experts

    @abstractmethod
    def forward(self, x: Tensor) -> Routing:
        """Route ``x``, float (rows, in_features)."""

    def calibrate(self, x: Tensor) -> None:  # noqa: B027 - a router without statistics has nothing to do
        """Set statistics, such as uncertainty quantiles, from training samples (rows, in_features)."""
