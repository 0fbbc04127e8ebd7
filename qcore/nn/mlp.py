"""``core/mlp``: a multilayer perceptron whose norms suit quantized layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from qcore.nn import init
from qcore.nn.config import MLPConfig
from qcore.nn.dropout import Dropout
from qcore.nn.scaling import ScaledNetwork

if TYPE_CHECKING:
    from qcore.backends.plan import Value
    from qcore.nn.plan import PlanBuilder

__all__ = ["MLP", "MLPBlock", "build_mlp"]


class MLPBlock(nn.Module):
    """LayerNorm - Linear - LayerNorm - ReLU - Dropout; either norm may be absent."""

    in_order: ClassVar[tuple[str, ...]] = ("pre_norm", "linear", "post_norm", "relu", "dropout")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        generator: torch.Generator,
        *,
        dropout: float = 0.1,
        pre_norm: bool = True,
        post_norm: bool = True,
    ) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(in_features) if pre_norm else nn.Identity()
        self.linear = init.linear(in_features, out_features, generator)
        self.post_norm = nn.LayerNorm(out_features) if post_norm else nn.Identity()
        self.relu = nn.ReLU()
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_features)."""
        out: Tensor = self.dropout(self.relu(self.post_norm(self.linear(self.pre_norm(x)))))
        return out

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say it in the steps of a plan."""
        for part in (self.pre_norm, self.linear, self.post_norm, self.relu, self.dropout):
            x = builder.lower(part, x)
        return x


class MLP(ScaledNetwork):
    """Blocks of hidden layers and a linear head; takes raw features, (rows, in_features)."""

    in_order: ClassVar[tuple[str, ...]] = ("scaler", "blocks", "head", "rescale")

    def __init__(self, config: MLPConfig, generator: torch.Generator) -> None:
        super().__init__(
            config.in_features,
            standardize=config.standardize,
            rescale=config.rescale,
            outputs=config.out_features,
        )
        widths = [config.in_features, *config.hidden]
        self.blocks = nn.Sequential(
            *(
                MLPBlock(
                    width,
                    following,
                    generator,
                    dropout=config.dropout,
                    pre_norm=config.input_norm if place == 0 else config.pre_norm,
                    post_norm=config.post_norm,
                )
                for place, (width, following) in enumerate(zip(widths, widths[1:], strict=False))
            )
        )
        self.head = init.linear(widths[-1], config.out_features, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return (rows, out_features)."""
        out: Tensor = self.rescale(self.head(self.blocks(self.scaler(x))))
        return out

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say it in the steps of a plan."""
        for part in (self.scaler, self.blocks, self.head, self.rescale):
            x = builder.lower(part, x)
        return x


def build_mlp(config: MLPConfig, generator: torch.Generator) -> MLP:
    """Build ``core/mlp``, initialised from ``generator``."""
    return MLP(config, generator)
