"""``hetero_diffq/squeezenext``: two-stage bottlenecks around windows of 1 x 3 and 3 x 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from qcore_hetero_diffq.models.config import SqueezeNextConfig
from qcore_hetero_diffq.models.network import ImageNetwork
from qcore_hetero_diffq.models.parts import Style, conv_unit, linear

if TYPE_CHECKING:
    from qcore.backends.plan import Value
    from qcore.nn.plan import PlanBuilder

__all__ = ["SqueezeNext", "SqueezeNextBlock", "build_squeezenext"]

_UNITS: Final = {"23": (6, 6, 8, 1), "23v5": (2, 4, 14, 1)}
_CHANNELS: Final = (32, 64, 128, 256)
_STEM, _LAST = 64, 128
_STYLE: Final = Style(activation=nn.ReLU, bias=True)
"""Convolutions have a bias although a norm follows: the published numbers of parameters count both."""


class SqueezeNext(ImageNetwork):
    """A 7x7 stem and a max pool, four stages of blocks, a last 1x1 unit, the mean over space, and the head.

    Parameters for 1000 classes:

    ========= ========= =========
    width     23        23v5
    ========= ========= =========
    1         724,056   921,816
    1.5       1,511,824 1,953,616
    2         2,583,752 3,366,344
    ========= ========= =========

    The paper prints 0.72 million for 1.0-SqNxt-23. For 2.0-SqNxt-23 it prints 2.4, which this does not match: the
    numbers above are those of the networks in public use, and of those that arXiv:2206.07741 quantizes. All variants
    have the 7x7 stem, as those networks have.

    Source: Gholami et al. 2018, arXiv:1803.10615.
    """

    def __init__(self, config: SqueezeNextConfig, generator: torch.Generator) -> None:
        channels = int(_STEM * config.width)
        whole = config.reduction == 32
        stem = conv_unit(
            config.in_channels,
            channels,
            7,
            _STYLE,
            generator,
            stride=1 if config.reduction == 8 else 2,
            padding=1 if whole else None,
        )
        if whole:
            stem.add_module("pool", nn.MaxPool2d(3, stride=2, ceil_mode=True))
        stages: list[nn.Module] = []
        for number, (units, width) in enumerate(zip(_UNITS[config.variant], _CHANNELS, strict=True)):
            outputs = int(width * config.width)
            blocks: list[nn.Module] = []
            for place in range(units):
                stride = 2 if number > 0 and place == 0 else 1
                blocks.append(SqueezeNextBlock(channels, outputs, stride, generator))
                channels = outputs
            stages.append(nn.Sequential(*blocks))
        features = int(_LAST * config.width)
        last = conv_unit(channels, features, 1, _STYLE, generator)
        head = linear(features, config.out_features, generator)
        super().__init__(config, stem, nn.Sequential(*stages), last, head, config.dropout)


class SqueezeNextBlock(nn.Module):
    """``relu(branch(x) + shortcut(x))``.

    Attributes:
        branch: two units of 1x1 convolutions that halve the channels, windows of 1 x 3 and 3 x 1, and a 1x1 unit back.
        shortcut: the identity, or a 1x1 unit where the shape changes.
        act: ReLU, of the sum.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, generator: torch.Generator) -> None:
        super().__init__()
        # A block that halves the map keeps its width in the first unit; one that narrows squeezes twice as much.
        wide = inputs if stride == 2 else inputs // 4 if inputs > outputs else inputs // 2
        narrow = wide // 2
        self.branch = nn.Sequential(
            conv_unit(inputs, wide, 1, _STYLE, generator, stride=stride),
            conv_unit(wide, narrow, 1, _STYLE, generator),
            conv_unit(narrow, wide, (1, 3), _STYLE, generator),
            conv_unit(wide, wide, (3, 1), _STYLE, generator),
            conv_unit(wide, outputs, 1, _STYLE, generator),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride == 2 or inputs != outputs:
            self.shortcut = conv_unit(inputs, outputs, 1, _STYLE, generator, stride=stride)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, outputs, height, width), the latter halved by a stride of 2."""
        out: Tensor = self.act(self.branch(x) + self.shortcut(x))
        return out

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say it in the steps of a plan."""
        return builder.lower(self.act, builder.add(builder.lower(self.branch, x), builder.lower(self.shortcut, x)))


def build_squeezenext(config: SqueezeNextConfig, generator: torch.Generator) -> SqueezeNext:
    """Build ``hetero_diffq/squeezenext``, initialised from ``generator``."""
    return SqueezeNext(config, generator)
