"""Heterogeneous differentiable quantization for qcore: bit widths learned through step sizes and ranges.

This module is torch-free: it says what the plugin offers, and the core imports the rest on first use.
"""

from __future__ import annotations

from qcore.hookspecs import hookimpl
from qcore.registry import ModelSpec

__all__ = ["qcore_models"]

__version__ = "0.1.0"


@hookimpl
def qcore_models() -> list[ModelSpec]:
    """Return the networks."""
    return [
        ModelSpec(
            name="resnet20",
            target="qcore_hetero_diffq.models.resnet:build_resnet20",
            summary="the residual network of 20 layers for images of 32 x 32 pixels",
            reference="He et al. 2016, arXiv:1512.03385",
            config="qcore_hetero_diffq.models.config:ResNet20Config",
        ),
    ]
