"""Scaling that travels with the model: a saved model takes raw features and returns raw units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from qcore.errors import UsageError

if TYPE_CHECKING:
    from qcore.backends.plan import Value
    from qcore.nn.plan import PlanBuilder

__all__ = ["Rescale", "ScaledNetwork", "Standardize"]


_ELEMENTS = 1 << 22
"""Numbers that are float64 at once: a set of images would fill the memory."""


class Standardize(nn.Module):
    """``(x - mean) / std`` per feature (axis 1), with statistics of the training part.

    A feature that never varies there is only centred.

    Attributes:
        mean, std: float32 (features,).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def fit(self, x: Tensor) -> None:
        """Set the statistics from ``x``, (rows, features) or (n, channels, height, width)."""
        shape, features = (-1, *([1] * (x.dim() - 2))), x.shape[1]
        parts = torch.split(x, max(1, _ELEMENTS // max(x[:1].numel(), 1)))
        count = x.numel() // features
        mean = sum((_per_feature(part).sum(dim=1) for part in parts), torch.zeros(())) / count
        centred = (_per_feature(part.to(torch.float64) - mean.view(shape)) for part in parts)
        std = (sum((part.square().sum(dim=1) for part in centred), torch.zeros(())) / count).sqrt()
        largest = torch.stack([_per_feature(part).abs().amax(dim=1) for part in parts]).amax(dim=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > 1e-6 * largest.clamp_min(1e-12), std, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` scaled, same shape."""
        shape = (-1, *([1] * (x.dim() - 2)))
        return (x - self.mean.view(shape)) / self.std.view(shape)

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say it in the steps of a plan."""
        return builder.standardize(x, self.mean, self.std)


def _per_feature(x: Tensor) -> Tensor:
    """View ``x`` as float64 (features, elements)."""
    return x.transpose(0, 1).flatten(1).to(torch.float64)


class Rescale(nn.Module):
    """``y * std + mean``: from a network's output to the units of a regression's targets.

    Attributes:
        mean, std: float32 () for one output, (outputs,) for several.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        shape = () if outputs == 1 else (outputs,)
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("std", torch.ones(shape))

    def fit(self, targets: Tensor) -> None:
        """Set the statistics from the training targets, (rows,) or (rows, outputs); the former serve all outputs.

        Raises:
            UsageError: the targets have another number of values a sample than this has outputs.
        """
        values = targets.to(torch.float64)
        if values.shape[1:] not in ((), self.mean.shape):
            given, wanted = self.mean.numel(), values[0].numel()
            hint = "build it with the task's out_features"
            raise UsageError(f"the network rescales {given} outputs where the targets have {wanted} values", hint)
        self.mean.copy_(values.mean(dim=0))
        self.std.copy_(values.std(dim=0, correction=0).clamp_min(1e-12))

    def forward(self, y: Tensor) -> Tensor:
        """Return ``y`` in the targets' units."""
        return y * self.std + self.mean

    def plan(self, builder: PlanBuilder, y: Value) -> Value:
        """Say it in the steps of a plan."""
        return builder.rescale(y, self.mean, self.std)


class ScaledNetwork(nn.Module):
    """Base of networks that take raw features and return raw units: a scaler before, a rescaling after.

    Attributes:
        scaler: Standardize over features or channels, or the identity.
        rescale: Rescale for a regression, or the identity.
    """

    def __init__(self, features: int, *, standardize: bool = True, rescale: bool = False, outputs: int = 1) -> None:
        super().__init__()
        self.scaler = Standardize(features) if standardize else nn.Identity()
        self.rescale = Rescale(outputs) if rescale else nn.Identity()

    def fit_scalers(self, inputs: Tensor, targets: Tensor) -> None:
        """Set the scaling from the training part: inputs (rows, ...), targets (rows,) or (rows, outputs)."""
        if isinstance(self.scaler, Standardize):
            self.scaler.fit(inputs)
        if isinstance(self.rescale, Rescale):
            self.rescale.fit(targets)
