"""What each width of an activation would cost, seen from the gradient."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["ACTIVATION_LEVELS", "CANDIDATES", "RATIOS", "width_losses"]

ACTIVATION_LEVELS = (2, 3, 4, 5, 6, 7, 8)
RATIOS = (1.0, 0.8, 0.65, 0.5, 0.4)
"""Shares of the learned range that are tried at each width: fewer bits want a narrower one."""

CANDIDATES = (len(ACTIVATION_LEVELS), len(RATIOS))

SAMPLED = 1 << 14
"""Elements that are looked at, evenly spaced."""


def width_losses(gradient: Tensor, x: Tensor, range: Tensor, samples: int, *, signed: bool) -> Tensor:
    """Return the second-order loss of each width and share of the range, float32 (levels, ratios).

    ``sum over a sample's elements of (B g)**2 (Q(x) - x)**2 / 2``, mean over samples: the diagonal Fisher information
    of a sample's loss times the squared error. ``g`` is the gradient of the mean loss of ``B`` samples.

    Args:
        gradient: ``g``, float32, any shape.
        x: what is quantized, of that shape.
        range: float32 (1, 1).
        samples: ``B``.
        signed: whether codes are.
    """
    stride = max(1, x.numel() // SAMPLED)
    while math.gcd(stride, x.numel()) > 1:  # else it would step from column to same column
        stride += 1
    values, weight = x.reshape(-1)[::stride], (gradient.reshape(-1)[::stride] * samples).square()
    factor = 0.5 * x.numel() / max(samples * values.numel(), 1)
    found = torch.zeros(CANDIDATES, device=x.device)
    for i, level in enumerate(ACTIVATION_LEVELS):
        top = float((1 << (level - int(signed))) - 1)
        for j, ratio in enumerate(RATIOS):
            step = range * (ratio / top)
            codes = (values / step.squeeze()).round_().clamp_(-top if signed else 0.0, top)
            found[i, j] = (weight * (codes * step.squeeze() - values).square()).sum() * factor
    return found
