"""``core/cnn``: a small convolutional network for images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qcore.nn import init
from qcore.nn.config import CNNConfig
from qcore.nn.dropout import Dropout
from qcore.nn.scaling import ScaledNetwork

if TYPE_CHECKING:
    from qcore.backends.plan import Value
    from qcore.nn.plan import PlanBuilder

__all__ = ["CNN", "build_cnn"]


class CNN(ScaledNetwork):
    """Blocks of two 3x3 convolutions with batch norm and a max pool, then the mean over space and a linear head."""

    def __init__(self, config: CNNConfig, generator: torch.Generator) -> None:
        super().__init__(
            config.in_channels,
            standardize=config.standardize,
            rescale=config.rescale,
            outputs=config.out_features,
        )
        layers: list[nn.Module] = []
        channels = config.in_channels
        for block in range(config.blocks):
            width = config.width << block
            for inputs in (channels, width):
                layers += [
                    init.conv2d(inputs, width, 3, generator, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(),
                ]
            # An image of 8 pixels cannot be halved for ever: the pool rounds up.
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
            channels = width
        self.features = nn.Sequential(*layers)
        self.dropout = Dropout(config.dropout)
        self.head = init.linear(channels, config.out_features, generator)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, out_features) for images (n, channels, height, width)."""
        pooled = self.features(self.scaler(x)).mean(dim=(2, 3))
        out: Tensor = self.rescale(self.head(self.dropout(pooled)))
        return out

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say it in the steps of a plan."""
        pooled = builder.spatial_mean(builder.lower(self.features, builder.lower(self.scaler, x)))
        for part in (self.dropout, self.head, self.rescale):
            pooled = builder.lower(part, pooled)
        return pooled


def build_cnn(config: CNNConfig, generator: torch.Generator) -> CNN:
    """Build ``core/cnn``, initialised from ``generator``."""
    return CNN(config, generator)
