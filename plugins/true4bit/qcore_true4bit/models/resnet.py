"""``true4bit/simple_resnet4bit``: six convolutions, one of them with a skip."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qcore_true4bit.models.network import ImageNetwork, conv_block, linear

if TYPE_CHECKING:
    from qcore.backends.plan import Value
    from qcore.nn.plan import PlanBuilder
    from qcore_true4bit.models.config import ResNetConfig

__all__ = ["SimpleResNet4bit", "build_resnet"]


class SimpleResNet4bit(ImageNetwork):
    """Six 3x3 convolutions with batch norm and ReLU, the second with a skip around it; mean over space; the head.

    73,178 parameters for 10 classes (images in three channels, width 16).

    Source: Tathe 2026, arXiv:2603.13931; the paper names the network, its code defines it.
    """

    def __init__(self, config: ResNetConfig, generator: torch.Generator) -> None:
        super().__init__(config)
        width = config.width
        self.stem = nn.Sequential(*conv_block(config.in_channels, width, generator))
        self.skipped = nn.Sequential(*conv_block(width, width, generator))
        self.body = nn.Sequential(
            *conv_block(width, 2 * width, generator, stride=2),
            *conv_block(2 * width, 2 * width, generator),
            *conv_block(2 * width, 4 * width, generator, stride=2),
            *conv_block(4 * width, 4 * width, generator),
        )
        self.head = linear(4 * width, config.out_features, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, out_features)."""
        first = self.stem(self.scaled(x))
        out: Tensor = self.head(self.body(self.skipped(first) + first).mean(dim=(2, 3)))
        return out

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say it in the steps of a plan."""
        first = builder.lower(self.stem, self.plan_scaled(builder, x))
        joined = builder.add(builder.lower(self.skipped, first), first)
        return builder.lower(self.head, builder.spatial_mean(builder.lower(self.body, joined)))


def build_resnet(config: ResNetConfig, generator: torch.Generator) -> SimpleResNet4bit:
    """Build ``true4bit/simple_resnet4bit``, initialised from ``generator``."""
    return SimpleResNet4bit(config, generator)
