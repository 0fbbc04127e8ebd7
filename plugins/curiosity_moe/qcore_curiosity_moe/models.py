"""The plugin's networks, registered so that a file can name them: float skeletons, quantized by rules afterwards.

Expert bodies are those of ``core/mlp``: LayerNorm - Linear - LayerNorm - ReLU - Dropout blocks and a float head. One
scaler at the input, fitted on the training part, serves all of them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from qcore.nn import MLP, MixtureOfExperts, MLPBlock, Rescale, ScaledNetwork
from qcore.nn.config import MLPConfig
from qcore_curiosity_moe.cascade import Cascade
from qcore_curiosity_moe.config import CascadeConfig, EnsembleConfig, MixtureConfig, NetworkConfig

if TYPE_CHECKING:
    from qcore.backends.plan import Value
    from qcore.nn import PlanBuilder
    from qcore.routers import Router

__all__ = ["Ensemble", "Mixture", "adopt", "cascade", "ensemble", "mixture"]


class Mixture(ScaledNetwork):
    """A mixture of experts of one shape, behind one scaler.

    Attributes:
        moe: the MixtureOfExperts; its router sees the scaled input.
    """

    def __init__(self, config: MixtureConfig, generator: torch.Generator) -> None:
        super().__init__(config.in_features, rescale=config.rescale, outputs=config.out_features)
        trunk = None
        width, hidden = config.in_features, config.hidden
        if config.trunk:
            trunk = MLPBlock(width, hidden[0], generator, dropout=config.dropout, pre_norm=False)
            width, hidden = hidden[0], hidden[1:]
        experts = [_body(config, generator, width, hidden) for _ in range(config.experts)]
        self.moe = MixtureOfExperts(experts, _router(config, generator), trunk)

    def forward(self, x: Tensor) -> Tensor:
        """Return (rows, out_features) for raw features (rows, in_features)."""
        out: Tensor = self.rescale(self.moe(self.scaler(x)))
        return out

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say it in the steps of a plan."""
        for part in (self.scaler, self.moe, self.rescale):
            x = builder.lower(part, x)
        return x


class CascadeNetwork(ScaledNetwork):
    """A cascade of networks of one shape, behind one scaler; see :class:`Cascade`."""

    def __init__(self, config: CascadeConfig, generator: torch.Generator) -> None:
        super().__init__(config.in_features, rescale=config.rescale, outputs=config.out_features)
        self.cascade = Cascade(_body(config, generator) for _ in range(config.stages))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (rows, classes) for raw features (rows, in_features)."""
        logits: Tensor = self.cascade(self.scaler(x))
        return logits


class Ensemble(ScaledNetwork):
    """The mean of several networks: of their probabilities (returned as logits), or in regression of their outputs."""

    def __init__(self, config: EnsembleConfig, generator: torch.Generator) -> None:
        super().__init__(config.in_features, rescale=config.rescale, outputs=config.out_features)
        self.members = nn.ModuleList(_body(config, generator) for _ in range(config.members))

    def forward(self, x: Tensor) -> Tensor:
        """Return (rows, out_features) for raw features (rows, in_features)."""
        scaled = self.scaler(x)
        outputs = torch.stack([member(scaled) for member in self.members])
        if isinstance(self.rescale, Rescale):
            mean: Tensor = self.rescale(outputs.mean(dim=0))
            return mean
        return torch.logsumexp(torch.log_softmax(outputs, dim=-1), dim=0) - math.log(len(outputs))


def mixture(config: MixtureConfig, generator: torch.Generator) -> Mixture:
    """Build ``curiosity_moe/mixture``."""
    return Mixture(config, generator)


def cascade(config: CascadeConfig, generator: torch.Generator) -> CascadeNetwork:
    """Build ``curiosity_moe/cascade``."""
    return CascadeNetwork(config, generator)


def ensemble(config: EnsembleConfig, generator: torch.Generator) -> Ensemble:
    """Build ``curiosity_moe/ensemble``."""
    return Ensemble(config, generator)


def adopt(network: ScaledNetwork, bodies: nn.ModuleList, sources: list[nn.Module]) -> None:
    """Give ``bodies`` of ``network`` the trained layers of ``sources``, networks ``core/mlp``, and their scaling.

    The layers are taken as they are, packed or not; the sources were trained on the same part, so that their scalers
    agree and the first one's serves.
    """
    for body, source in zip(bodies, sources, strict=True):
        trained = cast(MLP, source)
        body.blocks, body.head = trained.blocks, trained.head
    first = cast(MLP, sources[0])
    network.scaler.load_state_dict(first.scaler.state_dict())
    network.rescale.load_state_dict(first.rescale.state_dict())


def _body(
    config: NetworkConfig, generator: torch.Generator, width: int | None = None, hidden: tuple[int, ...] | None = None
) -> MLP:
    options = {
        "in_features": width or config.in_features,
        "out_features": config.out_features,
        "hidden": hidden or config.hidden,
        "dropout": config.dropout,
        "standardize": False,
        "input_norm": width is not None and width != config.in_features,  # what a trunk gives is not standardized
    }
    return MLP(MLPConfig.model_validate(options), generator)


def _router(config: MixtureConfig, generator: torch.Generator) -> Router:
    from qcore.api import get

    options = {**config.routing, "in_features": config.in_features, "experts": config.experts}
    router: Router = get("router", config.router, **options)
    reset = getattr(router, "reset_parameters", None)
    if reset is not None:
        reset(generator)
    return router
