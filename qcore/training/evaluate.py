"""Outputs of a model in eval mode, batch by batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qcore.training.data import as_floats

__all__ = ["outputs"]


def outputs(model: nn.Module, inputs: Tensor, batch_size: int = 512) -> Tensor:
    """Return ``model(inputs)`` in eval mode as one tensor (rows, out_features), without gradient.

    ``inputs`` are as the task stores them. The model's mode is put back afterwards.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            starts = range(0, max(len(inputs), 1), batch_size)
            return torch.cat([model(as_floats(inputs[start : start + batch_size])) for start in starts])
    finally:
        model.train(was_training)
