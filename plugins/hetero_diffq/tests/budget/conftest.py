"""Small networks of all kinds, as they are in the middle of the mixed phase."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qcore
from qcore_hetero_diffq.budget.activations import ActivationSizes, trace_inputs
from qcore_hetero_diffq.network import learned_grids

SAMPLES = 16


class Residual(nn.Module):
    """A depthwise and a pointwise convolution, and what they are added to."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.depthwise(x)))
        return torch.relu(x + self.pointwise(y))


def plain(kind: str, width: int, seed: int) -> nn.Module:
    """Return a float network of 12 features, or of images (2, 6, 6), for 3 classes."""
    if kind == "mlp":
        layers = [nn.Linear(12, width), nn.ReLU(), nn.Linear(width, width + 3), nn.ReLU(), nn.Linear(width + 3, 3)]
    elif kind == "normed":
        layers = [nn.Linear(12, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 3)]
    else:
        stem = nn.Conv2d(2, width, 3, stride=2, bias=False)
        pool = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
        layers = [stem, nn.BatchNorm2d(width), nn.ReLU(), Residual(width), *pool, nn.Linear(width, 3)]
    model = nn.Sequential(*layers)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return model


@dataclass(frozen=True)
class Net:
    """A network in training.

    Attributes:
        plain: its float twin.
        model: quantized, calibrated, with derived widths, and gradients noted of ``SAMPLES`` samples.
        x: a batch.
        sizes: of its inputs.
        integer: whether all its layers are.
    """

    plain: nn.Module
    model: nn.Module
    x: Tensor
    sizes: ActivationSizes
    integer: bool


def build(
    kind: str = "mlp",
    width: int = 9,
    seed: int = 0,
    granularity: str = "row",
    *,
    float_input: bool = False,
    watched: bool = True,
) -> Net:
    """Return a network, quantized throughout but for the first layer's input if ``float_input``."""
    model = plain(kind, width, seed)
    options = ", group_size=5" if granularity == "group" else ""
    weight = f"hetero_diffq/sliced(granularity={granularity!r}{options})"
    both = {"weight": weight, "input": "hetero_diffq/activation(batches=2)"}
    rules = {**({"0": weight} if float_input else {}), "type:Linear": both}
    rules |= {"type:Conv2d": both} if kind == "conv" else {}
    quantized = qcore.quantize(model, rules).train()
    generator = torch.Generator().manual_seed(seed + 1)
    shape = (SAMPLES, 2, 6, 6) if kind == "conv" else (SAMPLES, 12)
    x, targets = torch.randn(shape, generator=generator), torch.arange(SAMPLES) % 3
    quantized(x), quantized(x)
    for grid in learned_grids(quantized):
        grid.watching = watched
        ranges = grid.ranges().detach()
        grid.set_grid(ranges / torch.exp2(torch.rand(ranges.shape, generator=generator) * 6), ranges)
        grid.project()
    for _ in range(2):
        F.cross_entropy(quantized(x), targets).backward()
    for grid in learned_grids(quantized):
        grid.watching = False
    integer = granularity != "group" and not float_input
    return Net(model, quantized.eval(), x, trace_inputs(quantized, x[:1]), integer)


@pytest.fixture(scope="session")
def net() -> Callable[..., Net]:
    return build
