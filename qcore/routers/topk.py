"""``core/topk``: softmax over a small network, the k most probable experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qcore.errors import ConfigError
from qcore.routers.base import Router, Routing
from qcore.routers.config import RouterConfig, TopKConfig

if TYPE_CHECKING:
    from qcore.backends.plan import Builder, Value

__all__ = ["TopKRouter", "empty_linear", "row_exact"]


class TopKRouter(Router):
    """``p = softmax(f(x))``; the ``k`` experts of largest ``p`` share the weight 1 in proportion to it.

    In training the weights are ``p`` itself, so that the gradient reaches the router through the choice (Shazeer et
    al. 2017, eq. 4); in eval mode they are renormalised, so that ``k = 1`` leaves the expert's output as it is.
    """

    Config = TopKConfig

    def __init__(self, config: RouterConfig) -> None:
        super().__init__(config)
        self.config: TopKConfig
        if self.config.k > config.experts:
            raise ConfigError(f"k = {self.config.k} experts a sample, of {config.experts}")
        widths = [config.in_features, *self.config.hidden, config.experts]
        layers: list[nn.Module] = []
        for width, following in zip(widths, widths[1:], strict=False):
            layers += [empty_linear(width, following), nn.ReLU()]
        self.net = nn.Sequential(*layers[:-1])
        self.reset_parameters(torch.Generator().manual_seed(0))

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Draw the weights anew: Xavier-uniform, biases zero."""
        for layer in self.net:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Routing:
        """Route ``x``, float (rows, in_features)."""
        logits = self.net(x).float() if self.training else row_exact(self.net, x)
        probabilities = torch.softmax(logits, dim=1)
        chosen = probabilities.topk(self.config.k, dim=1).indices
        weights = torch.zeros_like(probabilities).scatter(1, chosen, probabilities.gather(1, chosen))
        if not self.training:
            weights = weights / weights.sum(dim=1, keepdim=True)
        return Routing(weights, probabilities)

    def plan(self, builder: Builder, x: Value) -> Value:
        """Say the weights in the steps of a plan."""
        return builder.choose(builder.softmax(builder.lower(self.net, x, precise=True)), self.config.k)


def empty_linear(in_features: int, out_features: int) -> nn.Linear:
    """Return a linear layer whose weights are not drawn, so that the global random state is not touched."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, in_features, out_features)  # type: ignore[no-untyped-call]
    return layer


def row_exact(net: nn.Module, x: Tensor) -> Tensor:
    """Return ``net(x)`` computed in float64 and rounded to float32.

    A matrix product rounds differently at different batch sizes. In float64 that noise is 2**-53 of the sums, which the
    final rounding to 24 bits removes but for one case in some 2**28, so a row's route does not depend on its batch.
    """
    parameters = {name: value.double() for name, value in (*net.named_parameters(), *net.named_buffers())}
    out: Tensor = torch.func.functional_call(net, parameters, (x.double(),))
    return out.float()
