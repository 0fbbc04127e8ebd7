"""Building the networks that can start from pretrained weights."""

from __future__ import annotations

from typing import TypeVar

import torch

from qcore_hetero_diffq.models.config import EfficientNetConfig, MobileNetV2Config
from qcore_hetero_diffq.models.inverted import EfficientNetLite0, InvertedNetwork, MobileNetV2

__all__ = ["build_efficientnet_lite0", "build_mobilenet_v2"]

_Network = TypeVar("_Network", bound=InvertedNetwork)


def build_mobilenet_v2(config: MobileNetV2Config, generator: torch.Generator) -> MobileNetV2:
    """Build ``hetero_diffq/mobilenet_v2``, initialised from ``generator`` or from the file ``weights``."""
    return _with_weights(MobileNetV2(config, generator), config.weights)


def build_efficientnet_lite0(config: EfficientNetConfig, generator: torch.Generator) -> EfficientNetLite0:
    """Build ``hetero_diffq/efficientnet_lite0``, initialised from ``generator`` or from the file ``weights``."""
    return _with_weights(EfficientNetLite0(config, generator), config.weights)


def _with_weights(network: _Network, weights: str | None) -> _Network:
    """Load the file, if there is one.

    The option is no part of the architecture that files hold: they hold the weights themselves, and are read where that
    file is not.
    """
    if weights is not None:
        from qcore_hetero_diffq.models.pretrained import load_pretrained

        load_pretrained(network, weights)
    return network
