"""``true4bit/vgg4bit``: six convolutions and two linear layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qcore.nn import Dropout
from qcore_true4bit.models.network import ImageNetwork, conv_block, linear

if TYPE_CHECKING:
    from qcore.backends.plan import Value
    from qcore.nn.plan import PlanBuilder
    from qcore_true4bit.models.config import VGGConfig

__all__ = ["VGG4bit", "build_vgg"]

FACTORS = (1, 1, 2, 2, 4, 4)
"""Channels of the convolutions over ``width``; a max pool follows every second one."""


class VGG4bit(ImageNetwork):
    """3x3 convolutions with batch norm and ReLU, a max pool after every second, then one hidden layer and the head.

    3,251,018 parameters for 10 classes, 3,297,188 for 100 (images of 32 x 32 in three channels, width 64).

    Source: Tathe 2026, arXiv:2603.13931, section on the architecture; the initialisation is that of its code.
    """

    def __init__(self, config: VGGConfig, generator: torch.Generator) -> None:
        super().__init__(config)
        layers: list[nn.Module] = []
        channels = config.in_channels
        for place, factor in enumerate(FACTORS):
            layers += conv_block(channels, factor * config.width, generator)
            channels = factor * config.width
            if place % 2:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        hidden = config.hidden or 8 * config.width
        self.classifier = nn.Sequential(
            nn.Flatten(),
            linear(channels * (config.image_size // 8) ** 2, hidden, generator),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            Dropout(config.dropout),
            linear(hidden, config.out_features, generator),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, out_features)."""
        out: Tensor = self.classifier(self.features(self.scaled(x)))
        return out

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say it in the steps of a plan."""
        return builder.lower(self.classifier, builder.lower(self.features, self.plan_scaled(builder, x)))


def build_vgg(config: VGGConfig, generator: torch.Generator) -> VGG4bit:
    """Build ``true4bit/vgg4bit``, initialised from ``generator``."""
    return VGG4bit(config, generator)
