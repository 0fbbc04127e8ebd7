"""``hetero_diffq/mobilenet_v2`` and ``hetero_diffq/efficientnet_lite0``: networks of inverted residual blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from qcore_hetero_diffq.models.config import EfficientNetConfig, InvertedConfig, MobileNetV2Config
from qcore_hetero_diffq.models.network import ImageNetwork
from qcore_hetero_diffq.models.parts import StochasticDepth, Style, conv_unit, linear

if TYPE_CHECKING:
    from qcore.backends.plan import Value
    from qcore.nn.plan import PlanBuilder

__all__ = ["EfficientNetLite0", "InvertedNetwork", "InvertedResidual", "MobileNetV2"]

_HALVINGS: Final = 5
"""Strides of 2 of a whole network: 2**5 = 32 pixels of an image for one of the last map."""


@dataclass(frozen=True)
class Stage:
    """Blocks of one width.

    Attributes:
        expansion: channels within a block for one of its input.
        channels: of the output.
        blocks: how many.
        stride: of the first one.
        kernel: height and width of the depthwise windows.
    """

    expansion: int
    channels: int
    blocks: int
    stride: int
    kernel: int = 3


_MOBILENET_V2: Final = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)
"""Sandler et al. 2018, table 2."""

_EFFICIENTNET_B0: Final = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 40, 2, 2, kernel=5),
    Stage(6, 80, 3, 2),
    Stage(6, 112, 3, 1, kernel=5),
    Stage(6, 192, 4, 2, kernel=5),
    Stage(6, 320, 1, 1),
)
"""Tan and Le 2019, table 1."""

_STEM, _LAST = 32, 1280


class InvertedNetwork(ImageNetwork):
    """A 3x3 stem, stages of inverted residual blocks, a last 1x1 unit, the mean over space, dropout and the head."""

    def __init__(
        self, config: InvertedConfig, stages: tuple[Stage, ...], stem: int, last: int, generator: torch.Generator
    ) -> None:
        style = Style(norm=config.norm, eps=config.norm_eps, tensorflow=config.padding == "tensorflow")
        strides = _strides((2, *(stage.stride for stage in stages)), config.reduction)
        first = conv_unit(config.in_channels, stem, 3, style, generator, stride=strides[0])
        total, done, channels = sum(stage.blocks for stage in stages), 0, stem
        made: list[nn.Module] = []
        for stage, stride in zip(stages, strides[1:], strict=True):
            blocks: list[nn.Module] = []
            for place in range(stage.blocks):
                dropped = config.stochastic_depth * done / total
                step = stride if place == 0 else 1
                blocks.append(InvertedResidual(channels, stage, step, dropped, style, generator))
                channels, done = stage.channels, done + 1
            made.append(nn.Sequential(*blocks))
        widest = conv_unit(channels, last, 1, style, generator)
        head = linear(last, config.out_features, generator)
        super().__init__(config, first, nn.Sequential(*made), widest, head, config.dropout)


class InvertedResidual(nn.Module):
    """``project(depthwise(expand(x)))``, and ``x`` added to it where its shape is the same.

    Attributes:
        expand: a unit of a 1x1 convolution to more channels; None where they are as many.
        depthwise: a unit of a window for each channel.
        project: a unit of a 1x1 convolution without activation.
        drop: stochastic depth of the sum; None where there is no sum.
    """

    def __init__(
        self, inputs: int, stage: Stage, stride: int, dropped: float, style: Style, generator: torch.Generator
    ) -> None:
        super().__init__()
        inner = inputs * stage.expansion
        self.expand = None if stage.expansion == 1 else conv_unit(inputs, inner, 1, style, generator)
        self.depthwise = conv_unit(inner, inner, stage.kernel, style, generator, stride=stride, groups=inner)
        self.project = conv_unit(inner, stage.channels, 1, style, generator, active=False)
        adds = stride == 1 and inputs == stage.channels
        self.drop = StochasticDepth(dropped) if adds else None

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, channels, height, width), the latter halved by a stride of 2."""
        inner = x if self.expand is None else self.expand(x)
        out: Tensor = self.project(self.depthwise(inner))
        return out if self.drop is None else self.drop(out) + x

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say it in the steps of a plan."""
        inner = x if self.expand is None else builder.lower(self.expand, x)
        out = builder.lower(self.project, builder.lower(self.depthwise, inner))
        return out if self.drop is None else builder.add(builder.lower(self.drop, out), x)


class MobileNetV2(InvertedNetwork):
    """Inverted residuals with linear bottlenecks, seventeen blocks in seven stages.

    Of width 1, for 1000 classes: 3,504,872 parameters; without norms and for 1001 outputs, as the folded network of
    TensorFlow Lite: 3,489,097.

    Source: Sandler et al. 2018, arXiv:1801.04381; widths are multiples of 8, none below 90 % of what the multiplier
    says, and the last unit does not get narrower, as in the paper's code.
    """

    def __init__(self, config: MobileNetV2Config, generator: torch.Generator) -> None:
        stages = tuple(
            Stage(s.expansion, _multiple(s.channels * config.width), s.blocks, s.stride, s.kernel)
            for s in _MOBILENET_V2
        )
        last = _multiple(_LAST * max(1.0, config.width))
        super().__init__(config, stages, _multiple(_STEM * config.width), last, generator)


class EfficientNetLite0(InvertedNetwork):
    """EfficientNet-B0 without squeeze and excitation, and with ReLU6: sixteen blocks in seven stages.

    For 1000 classes: 4,652,008 parameters. The larger ones of the family scale all but stem and last unit; they are not
    here.

    Source: Tan and Le 2019, arXiv:1905.11946; the variant is Google's EfficientNet-Lite, 2020.
    """

    def __init__(self, config: EfficientNetConfig, generator: torch.Generator) -> None:
        super().__init__(config, _EFFICIENTNET_B0, _STEM, _LAST, generator)


def _strides(strides: tuple[int, ...], reduction: int) -> list[int]:
    """Return ``strides`` with as many of the first twos made one as leaves ``reduction``."""
    spared = _HALVINGS - (reduction.bit_length() - 1)
    kept = list(strides)
    for place in [place for place, stride in enumerate(strides) if stride == 2][:spared]:
        kept[place] = 1
    return kept


def _multiple(channels: float, of: int = 8) -> int:
    """Return the multiple of ``of`` that is nearest to ``channels``, or the next if that is less than 90 % of it."""
    nearest = max(of, int(channels + of / 2) // of * of)
    return nearest if nearest >= 0.9 * channels else nearest + of
