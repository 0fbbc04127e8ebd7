"""Uncertainty and the precision prior: pure functions of probabilities.

Source: arXiv:2511.11743 (v4's published rule) and the decisions of this plugin's README. ``passes`` are the
probabilities of M masked passes, (passes, rows, experts); entropies and divergences are in nats. Gradients flow through
probabilities; whoever calls decides what to detach. Nothing modifies its input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = [
    "batch_minmax",
    "betas",
    "calibrated",
    "entropy",
    "information_gain",
    "mutual_information",
    "quantiles",
    "sharpen",
    "tilt",
    "total_variance",
    "uncertainty_bound",
]


def entropy(p: Tensor) -> Tensor:
    """Return ``H(p) = -sum_e p_e log p_e`` over the last axis, in nats, with ``0 log 0 = 0``."""
    return -torch.xlogy(p, p).sum(dim=-1)


def mutual_information(passes: Tensor) -> Tensor:
    """Return ``H(mean_m p^m) - mean_m H(p^m)``, (rows,) in nats, never negative; one pass gives exactly 0."""
    if passes.shape[0] == 1:
        return passes.new_zeros(passes.shape[1])
    return (entropy(passes.mean(dim=0)) - entropy(passes).mean(dim=0)).clamp_min(0.0)


def total_variance(passes: Tensor) -> Tensor:
    """Return ``sum_e Var_m p^m_e`` with the population variance, (rows,); one pass gives exactly 0."""
    return (passes - passes.mean(dim=0)).square().mean(dim=0).sum(dim=-1)


def uncertainty_bound(kind: str, experts: int) -> float:
    """Return the largest value that ``kind`` can take: ``log E`` for mutual information, ``1 - 1/E`` for variance."""
    return max(math.log(experts) if kind == "mutual_information" else 1.0 - 1.0 / experts, torch.finfo().tiny)


def betas(bits: Sequence[float], scale: str = "linear") -> list[float]:
    """Return ``beta_i = (b_i - min b) / (max b - min b)``; equal bits give 0.

    Args:
        bits: width of each expert, or any other cost of it.
        scale: ``linear`` in the bits, or ``log2``.
    """
    values = [math.log2(b) for b in bits] if scale == "log2" else [float(b) for b in bits]
    low, span = min(values), max(values) - min(values)
    return [(value - low) / span if span > 0 else 0.0 for value in values]


def calibrated(uncertainty: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return ``clip((U - low) / (high - low), 0, 1)``: free of the batch; 0 everywhere where ``high <= low``."""
    span = high - low
    scaled = ((uncertainty - low) / span.clamp_min(torch.finfo(span.dtype).tiny)).clamp(0.0, 1.0)
    return torch.where(span > 0, scaled, torch.zeros_like(scaled))


def batch_minmax(uncertainty: Tensor) -> Tensor:
    """Return ``(U - min U) / (max U - min U)`` over the batch, 0 where all are equal.

    The reference's map. A row's value depends on its batch mates, and a batch of one row always gives 0.
    """
    if uncertainty.numel() == 0:
        return uncertainty
    low, high = uncertainty.aminmax()
    return calibrated(uncertainty, low, high)


def quantiles(uncertainty: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Return two quantiles of (rows,), each (), between order statistics by linear interpolation."""
    ordered = uncertainty.sort().values
    found = []
    for share in (low, high):
        position = share * (len(ordered) - 1)
        below, weight = int(position), position - int(position)
        above = min(below + 1, len(ordered) - 1)
        found.append(ordered[below] + weight * (ordered[above] - ordered[below]))
    return found[0], found[1]


def tilt(p: Tensor, exponent: Tensor) -> Tensor:
    """Return ``p'_i = p_i exp(a_i) / sum_j p_j exp(a_j) * sum_j p_j``: an exponent of 0 gives ``p`` itself.

    With ``a_i = alpha u beta_i`` this is the precision prior. It is an exponential tilt, so the expected beta rises
    with alpha and u: ``d E[beta] / d(alpha u) = Var[beta] >= 0``.

    Args:
        p: (rows, experts), rows sum to 1.
        exponent: broadcastable to ``p``; a constant along the last axis changes nothing.
    """
    # Subtracting the largest exponent of a possible expert keeps exp() in range however large alpha is.
    possible = exponent.expand_as(p).masked_fill(p <= 0, -torch.inf)
    weight = torch.exp(possible - possible.amax(dim=-1, keepdim=True).detach())
    tilted = p * weight
    return tilted / (tilted.sum(dim=-1, keepdim=True) / p.sum(dim=-1, keepdim=True))


def sharpen(p: Tensor, alpha: Tensor) -> Tensor:
    """Return ``p_i^(1 + alpha)`` normalised: what the paper's Eq. 8 is once mended. It never moves the largest."""
    return tilt(p, alpha * torch.log(p.clamp_min(torch.finfo(p.dtype).tiny)))


def information_gain(passes: Tensor) -> Tensor:
    """Return ``b_e = mean_m KL(Bern(p^m_e) || Bern(mean p_e))``, (rows, experts) in nats: epistemic, one an expert."""
    mean = passes.mean(dim=0)
    spread = _binary_entropy(mean) - _binary_entropy(passes).mean(dim=0)
    return spread.clamp_min(0.0)


def _binary_entropy(p: Tensor) -> Tensor:
    q = 1.0 - p
    return -(torch.xlogy(p, p) + torch.xlogy(q, q))
