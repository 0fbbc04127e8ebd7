"""What the networks share: scaled pixels, a stem, stages, perhaps a last unit, the mean over space, a linear head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from qcore.errors import UsageError
from qcore.nn import Dropout, Standardize
from qcore_hetero_diffq.models.config import ImageNetworkConfig

if TYPE_CHECKING:
    from qcore.backends.plan import Value
    from qcore.nn.plan import PlanBuilder

__all__ = ["ImageNetwork"]

_STATISTICS: Final[dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "inception": ((127.0,), (128.0,)),
    "symmetric": ((127.5,), (127.5,)),
    "torchvision": (
        (0.485 * 255, 0.456 * 255, 0.406 * 255),
        (0.229 * 255, 0.224 * 255, 0.225 * 255),
    ),
}
"""Mean and deviation of the channels, in pixel values: of all alike, or one each."""


class ImageNetwork(nn.Module):
    """Base: takes images as they are stored, (n, channels, height, width) of 0 to 255.

    Attributes:
        scaler: by the preprocessing of the config; the identity for ``none``.
        stem: the first unit, on the image.
        stages: one ``nn.Sequential`` of blocks a stage.
        last: what follows the stages, before the mean over space; the identity where nothing does.
        dropout: of the pooled features.
        head: linear, to the logits.
    """

    stages: nn.Sequential

    def __init__(
        self,
        config: ImageNetworkConfig,
        stem: nn.Module,
        stages: nn.Sequential,
        last: nn.Module,
        head: nn.Linear,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels = config.in_channels
        self._fits = config.preprocessing == "fit"
        self.scaler = _scaler(config)
        self.stem = stem
        self.stages = stages
        self.last = last
        self.dropout = Dropout(dropout)
        self.head = head

    def fit_scalers(self, inputs: Tensor, targets: Tensor) -> None:
        """Set the scaler from the training part, where the preprocessing is ``fit``."""
        if self._fits and isinstance(self.scaler, Standardize):
            self.scaler.fit(inputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (n, out_features).

        Raises:
            UsageError: ``x`` are no images of the network's channels.
        """
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            wanted = f"(n, {self.in_channels}, height, width)"
            raise UsageError(f"this network takes images {wanted}, not {tuple(x.shape)}")
        scaled = self.scaler(x).contiguous(memory_format=torch.channels_last)  # convolutions of few channels like that
        features = self.last(self.stages(self.stem(scaled)))
        pooled = features.contiguous().mean(dim=(2, 3))  # summed in one order, whatever the last map's layout
        out: Tensor = self.head(self.dropout(pooled))
        return out

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say it in the steps of a plan."""
        for part in (self.scaler, self.stem, self.stages, self.last):
            x = builder.lower(part, x)
        return builder.lower(self.head, builder.lower(self.dropout, builder.spatial_mean(x)))


def _scaler(config: ImageNetworkConfig) -> nn.Module:
    if config.preprocessing == "none":
        return nn.Identity()
    scaler = Standardize(config.in_channels)
    if config.preprocessing != "fit":
        mean, std = _STATISTICS[config.preprocessing]
        scaler.mean.copy_(torch.tensor(mean))
        scaler.std.copy_(torch.tensor(std))
    return scaler
