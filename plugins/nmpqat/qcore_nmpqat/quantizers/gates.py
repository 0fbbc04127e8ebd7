"""Gates: how a strength between 0 and 1 chooses a width, and how the choice is differentiated.

With thresholds ``t_1 < ... < t_m`` between ``m + 1`` widths and ``g_k = sigmoid((s - t_k) / tau)``, the mixture weights
of the widths are ``1 - g_1, g_1 - g_2, ..., g_m``. They are above 0, sum to 1, and tend to the hard choice as ``tau``
tends to 0. So a mixture ``sum_k w_k Q_k`` has ``d/ds = sum_k g'_k (Q_{k+1} - Q_k)``, with
``g'_k = g_k (1 - g_k) / tau``.

Source: Varshney et al. 2026, arXiv:2605.25054, section 2.1, which leaves the "sigmoid transitions" open.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["choose_levels", "middle_of", "mixture_weights", "slopes"]


def choose_levels(
    strength: Tensor, before: Tensor, thresholds: Sequence[float], hysteresis: float = 0.0, *, ratchet: bool = False
) -> Tensor:
    """Return the index of each neuron's width: how many thresholds its strength lies above.

    Args:
        strength: float32 (neurons,).
        before: int64 (neurons,), the choice so far, which counts with hysteresis or a ratchet alone.
        thresholds: rising.
        hysteresis: a level rises above ``t + hysteresis`` and falls at or below ``t - hysteresis``.
        ratchet: whether it never falls.

    Returns:
        int64 (neurons,), from 0 to the number of thresholds. A strength equal to a threshold has the lower width.
    """
    least = _above(strength, [threshold + hysteresis for threshold in thresholds])
    most = _above(strength, [threshold - hysteresis for threshold in thresholds]) if hysteresis else least
    levels = torch.minimum(torch.maximum(before, least), most)
    return torch.maximum(levels, before) if ratchet else levels


def mixture_weights(strength: Tensor, thresholds: Sequence[float], tau: float) -> Tensor:
    """Return the weight of each width, (neurons, widths), differentiable in ``strength`` (neurons,)."""
    gates = torch.sigmoid(_distance(strength, thresholds) / tau)
    ends = torch.ones_like(gates[:, :1]) if gates.shape[1] else strength.new_ones(len(strength), 1)
    return torch.cat([ends, gates], dim=1) - torch.cat([gates, torch.zeros_like(ends)], dim=1)


def slopes(strength: Tensor, thresholds: Sequence[float], tau: float) -> Tensor:
    """Return ``g'_k``, (neurons, thresholds): by how much each gate opens a unit of ``strength`` (neurons,)."""
    gates = torch.sigmoid(_distance(strength, thresholds) / tau)
    return gates * (1 - gates) / tau


def middle_of(levels: Tensor, thresholds: Sequence[float]) -> Tensor:
    """Return float32 strengths, shaped like ``levels``, that lie in the middle of what chooses these levels."""
    ends = torch.tensor((0.0, *thresholds, 1.0), device=levels.device)
    return ((ends[:-1] + ends[1:]) / 2)[levels]


def _above(strength: Tensor, thresholds: Sequence[float]) -> Tensor:
    return (_distance(strength, thresholds) > 0).sum(dim=1)


def _distance(strength: Tensor, thresholds: Sequence[float]) -> Tensor:
    return strength.unsqueeze(1) - strength.new_tensor(thresholds).reshape(1, -1)
