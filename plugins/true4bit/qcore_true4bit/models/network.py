"""What both networks share: scaled images, layers initialised as in the paper, and memory laid out for convolutions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qcore.errors import UsageError
from qcore.nn import Standardize
from qcore.nn.init import skip_init

if TYPE_CHECKING:
    from qcore.backends.plan import Value
    from qcore.nn.plan import PlanBuilder
    from qcore_true4bit.models.config import ImageNetConfig

__all__ = ["ImageNetwork", "conv_block", "linear"]


class ImageNetwork(nn.Module):
    """Base: takes images as they are stored, (n, channels, height, width) in 0..255 or rows of them if ``flat``.

    Attributes:
        image: channels, height and width.
        scaler: by the config's statistics, or by those of the training part.
    """

    def __init__(self, config: ImageNetConfig) -> None:
        super().__init__()
        self.image, self.flat = (config.in_channels, config.image_size, config.image_size), config.flat
        self.scaler = Standardize(config.in_channels)
        self._fixed = config.mean is not None
        if config.mean is not None and config.std is not None:
            self.scaler.mean.copy_(torch.tensor(config.mean) * 255)
            self.scaler.std.copy_(torch.tensor(config.std) * 255)

    def fit_scalers(self, inputs: Tensor, targets: Tensor) -> None:
        """Set the scaler from the training part, unless the config says it."""
        if not self._fixed:
            self.scaler.fit(self.images(inputs))

    def images(self, x: Tensor) -> Tensor:
        """Return ``x`` as (n, channels, height, width).

        Raises:
            UsageError: they are of another number of channels or of another size.
        """
        images = x.reshape(-1, *self.image) if self.flat else x
        if images.dim() != 4 or tuple(images.shape[1:]) != self.image:
            raise UsageError(f"this network takes images (n, {', '.join(map(str, self.image))}), not {tuple(x.shape)}")
        return images

    def scaled(self, x: Tensor) -> Tensor:
        """Return images (n, channels, height, width), scaled, with the channels last in memory."""
        scaled: Tensor = self.scaler(self.images(x))
        return scaled.contiguous(memory_format=torch.channels_last)

    def plan_scaled(self, builder: PlanBuilder, x: Value) -> Value:
        """Say :meth:`scaled` in the steps of a plan."""
        if self.flat:
            raise builder.refuse("images that come as rows", "build the network with flat=False")
        return builder.lower(self.scaler, x)


def conv_block(inputs: int, outputs: int, generator: torch.Generator, stride: int = 1) -> list[nn.Module]:
    """Return a 3x3 convolution with bias, batch norm and ReLU; weights are drawn from N(0, 2 / (9 inputs))."""
    conv: nn.Conv2d = skip_init(nn.Conv2d, inputs, outputs, 3, stride=stride, padding=1)
    nn.init.normal_(conv.weight, std=math.sqrt(2 / (9 * inputs)), generator=generator)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer; weights are drawn from N(0, 1 / inputs)."""
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs)
    nn.init.normal_(layer.weight, std=math.sqrt(1 / inputs), generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
