"""``hetero_diffq/resnet20``: the residual network of 20 layers for small images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qcore.tensor.arithmetic import Conv2dShape
from qcore_hetero_diffq.models.config import ResNet20Config
from qcore_hetero_diffq.models.network import ImageNetwork
from qcore_hetero_diffq.models.parts import Style, conv_unit, linear

if TYPE_CHECKING:
    from qcore.backends.plan import Value
    from qcore.nn.plan import PlanBuilder

__all__ = ["ResNet20", "build_resnet20"]

_BLOCKS = 3


class ResNet20(ImageNetwork):
    """A 3x3 stem, three stages of three blocks of two 3x3 convolutions, the mean over space, and the head.

    Of width 16 and for 10 classes: 269,722 parameters with shortcut A, which has none of its own; 272,474 with shortcut
    B, a 1x1 convolution with batch norm where channels double. The paper says 0.27 million, and has A on CIFAR-10.

    Source: He et al. 2016, arXiv:1512.03385, section 4.2.
    """

    def __init__(self, config: ResNet20Config, generator: torch.Generator) -> None:
        style = Style(activation=nn.ReLU)
        stem = conv_unit(config.in_channels, config.width, 3, style, generator)
        stages: list[nn.Module] = []
        channels = config.width
        for factor in (1, 2, 4):
            blocks: list[nn.Module] = []
            for _ in range(_BLOCKS):
                blocks.append(BasicBlock(channels, factor * config.width, config.shortcut, style, generator))
                channels = factor * config.width
            stages.append(nn.Sequential(*blocks))
        head = linear(channels, config.out_features, generator)
        super().__init__(config, stem, nn.Sequential(*stages), nn.Identity(), head)


class BasicBlock(nn.Module):
    """``relu(second(first(x)) + shortcut(x))``; where channels double, height and width are halved.

    Attributes:
        first, second: units of a 3x3 convolution; the second has no activation.
        shortcut: the identity, :class:`ZeroChannels` (A) or a unit of a 1x1 convolution (B).
        act: ReLU, of the sum.
    """

    def __init__(self, inputs: int, outputs: int, kind: str, style: Style, generator: torch.Generator) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.first = conv_unit(inputs, outputs, 3, style, generator, stride=stride)
        self.second = conv_unit(outputs, outputs, 3, style, generator, active=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 and kind == "A":
            self.shortcut = ZeroChannels(inputs, outputs)
        elif stride > 1:
            self.shortcut = conv_unit(inputs, outputs, 1, style, generator, stride=stride, active=False)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, outputs, height, width), the latter halved where channels double."""
        out: Tensor = self.act(self.second(self.first(x)) + self.shortcut(x))
        return out

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say it in the steps of a plan."""
        branch = builder.lower(self.second, builder.lower(self.first, x))
        return builder.lower(self.act, builder.add(branch, builder.lower(self.shortcut, x)))


class ZeroChannels(nn.Module):
    """Every second row and column of a map, with channels of zeros behind its own (shortcut A)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, outputs, ceil(height / 2), ceil(width / 2))."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.outputs - self.inputs))

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say it in the steps of a plan: a convolution that copies."""
        weight = torch.eye(self.outputs, self.inputs, device=builder.device).view(self.outputs, self.inputs, 1, 1)
        return builder.convolution(x, weight, None, Conv2dShape((2, 2), (0, 0), (1, 1), 1))

    def extra_repr(self) -> str:
        """Return the channels."""
        return f"{self.inputs}, {self.outputs}"


def build_resnet20(config: ResNet20Config, generator: torch.Generator) -> ResNet20:
    """Build ``hetero_diffq/resnet20``, initialised from ``generator``."""
    return ResNet20(config, generator)
