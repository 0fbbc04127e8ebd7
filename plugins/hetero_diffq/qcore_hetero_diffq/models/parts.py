"""What the networks are made of: units of convolution, norm and activation, padding, and paths that are left out."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qcore.errors import UsageError
from qcore.nn import Dropout
from qcore.nn.init import skip_init
from qcore.tensor.arithmetic import Conv2dShape

if TYPE_CHECKING:
    from qcore.backends.plan import Value
    from qcore.nn.plan import PlanBuilder

__all__ = ["PadEnd", "StochasticDepth", "Style", "conv_unit", "linear"]

_HEAD_STD: Final = 0.01


@dataclass(frozen=True)
class Style:
    """How the units of a network are made.

    Attributes:
        activation: what follows a unit's convolution and norm.
        norm: whether a batch norm follows each convolution; without it the convolutions have a bias.
        bias: whether they have one beside the norm as well.
        eps: of the batch norms.
        tensorflow: whether strides of 2 pad as TensorFlow does, see :class:`PadEnd`.
    """

    activation: type[nn.Module] = nn.ReLU6
    norm: bool = True
    bias: bool = False
    eps: float = 1e-5
    tensorflow: bool = False


def conv_unit(
    inputs: int,
    outputs: int,
    kernel: int | tuple[int, int],
    style: Style,
    generator: torch.Generator,
    *,
    stride: int = 1,
    groups: int = 1,
    padding: int | None = None,
    active: bool = True,
) -> nn.Sequential:
    """Return ``conv``, ``norm`` and ``act`` one after the other, in an ``nn.Sequential`` so that norms can be folded.

    Weights are drawn from N(0, 2 / fan_out), fan_out = kernel area * outputs / groups (He et al. 2015,
    arXiv:1502.01852); biases are 0.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        kernel: height and width of the window.
        style: norm, activation and padding.
        generator: where the weights are drawn from.
        stride: of both axes.
        groups: of channels; ``inputs`` for a depthwise convolution.
        padding: on each side; None keeps the size, but for the stride.
        active: whether an activation follows.
    """
    area = (kernel, kernel) if isinstance(kernel, int) else kernel
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    sides = (area[0] // 2, area[1] // 2) if padding is None else (padding, padding)
    if style.tensorflow and stride > 1:
        parts["pad"], sides = PadEnd(inputs, area[0]), (0, 0)
    bias = style.bias or not style.norm
    conv: nn.Conv2d = skip_init(
        nn.Conv2d, inputs, outputs, area, stride=stride, padding=sides, groups=groups, bias=bias
    )
    nn.init.normal_(conv.weight, std=math.sqrt(2 * groups / (area[0] * area[1] * outputs)), generator=generator)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    parts["conv"] = conv
    if style.norm:
        parts["norm"] = nn.BatchNorm2d(outputs, eps=style.eps)
    if active:
        parts["act"] = style.activation()
    return nn.Sequential(parts)


def linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """Return a linear layer; weights are drawn from N(0, 0.01^2), biases are 0."""
    layer: nn.Linear = skip_init(nn.Linear, inputs, outputs)
    nn.init.normal_(layer.weight, std=_HEAD_STD, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer


class PadEnd(nn.Module):
    """Zeros around a map as TensorFlow's "same" puts them before a stride of 2: the odd row and column at the end.

    A window of k on a map of even size needs k - 2 rows more: floor((k - 2) / 2) at the beginning, the rest at the end.
    A map of odd size would need k - 1, as many on both sides, and is refused. The convolution after it pads nothing.

    Attributes:
        channels: of the map.
        begin, end: rows and columns on the two sides.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.channels = channels
        self.begin, self.end = (kernel - 2) // 2, (kernel - 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, channels, height + begin + end, width + begin + end).

        Raises:
            UsageError: height or width is odd.
        """
        if x.shape[2] % 2 or x.shape[3] % 2:
            raise UsageError(
                f"TensorFlow's padding of a map of {x.shape[2]} x {x.shape[3]} is another than that of even sizes",
                "give images whose sides are multiples of the network's reduction (32 by default)",
            )
        return F.pad(x, (self.begin, self.end, self.begin, self.end))

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say it in the steps of a plan: a convolution whose window of 2 x 2 copies its last pixel.

        It pads ``end`` rows and columns everywhere, and moves the map by the one that is too many at the beginning.
        """
        weight = torch.zeros(self.channels, 1, 2, 2, device=builder.device)
        weight[:, :, 1, 1] = 1
        return builder.convolution(x, weight, None, Conv2dShape((1, 1), (self.end, self.end), (1, 1), self.channels))

    def extra_repr(self) -> str:
        """Return what stands on the two sides."""
        return f"begin={self.begin}, end={self.end}"


class StochasticDepth(nn.Module):
    """Zeroes the whole branch of a share ``p`` of the samples in training, and scales the others by ``1 / (1 - p)``.

    Source: Huang et al. 2016, arXiv:1603.09382; the scaling is dropout's.

    Attributes:
        drop: dropout of one number a sample; its generator is where masks are drawn from.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.drop = Dropout(p)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, channels, height, width), in training with some samples zeroed."""
        if not self.training or self.drop.p == 0:
            return x
        kept: Tensor = self.drop(x.new_ones(len(x), 1, 1, 1))
        return x * kept

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say it in the steps of a plan: nothing."""
        return x
