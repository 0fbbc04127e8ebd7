"""The choice of a configuration: what was measured on this GPU, else a default."""

from __future__ import annotations

import torch

from qcore_backend_cuda.config import Config, default_config
from qcore_backend_cuda.weights import PackedWeight

__all__ = ["config_for"]


def config_for(weight: PackedWeight, count: int, dtype: torch.dtype) -> Config:
    """Return how to run ``count`` rows of inputs in ``dtype`` through ``weight``."""
    wide = not weight.integer and dtype is torch.float32
    return default_config(count, weight.rows, weight.cols, integer=weight.integer, wide=wide)
