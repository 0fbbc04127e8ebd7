"""What the backward pass of a rounding multiplies the gradient by."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from qcore_hetero_diffq.quantizers.config import Surrogate

__all__ = ["Source", "scaled_gradient"]

_ODD: dict[str, Callable[[Tensor], Tensor]] = {
    "ewgs": lambda e: e,
    "tanh": lambda e: 0.5 * torch.tanh(4 * e),
    "atanh": lambda e: torch.atanh(1.9 * e).mul_(0.5 / math.atanh(0.95)),
}
"""f(e) of the rules that look at the sign of the gradient."""

_PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "psgd": torch.abs,
    "acos": lambda e: 0.5 * torch.sin(math.pi * e),
}


class Source(Protocol):
    """Where random numbers come from."""

    def generator_on(self, device: torch.device) -> torch.Generator:
        """Return a generator on ``device``."""


def scaled_gradient(
    kind: Surrogate,
    delta: float | Tensor,
    gradient: Tensor,
    error: Tensor,
    source: Source | None = None,
) -> Tensor:
    """Return ``gradient * m``: what passes back through a rounding.

    With ``e = z - round(z)`` in [-1/2, 1/2], ``g`` the gradient and ``d`` = delta::

        ste       m = 1
        ewgs      m = 1 + d sign(g) e
        tanh      m = 1 + d sign(g) tanh(4 e) / 2
        atanh     m = 1 + d sign(g) atanh(1.9 e) / (2 atanh(0.95))
        psgd      m = 1 + d |e|
        acos      m = 1 + d sin(pi e) / 2
        gaussian  m = 1 + d N(0, 1)
        uniform   m = 1 + d U(-1/2, 1/2)

    Args:
        kind: which.
        delta: how strongly; a tensor () where that depends on what is learned.
        gradient: float32, any shape.
        error: ``e``, of that shape.
        source: of random numbers, for the two random ones.

    Source: Schaefer et al., WACV 2024, arXiv:2206.07741, the targeted gradient modification; EWGS: Lee et al. 2021,
    arXiv:2104.00903; PSGD: Kim et al. 2020, arXiv:2005.11035.
    """
    if kind == "ste" or (isinstance(delta, float) and delta == 0):
        return gradient
    if kind in _ODD:
        return gradient + gradient.abs() * _ODD[kind](error) * delta
    if kind in _PLAIN:
        return gradient + gradient * _PLAIN[kind](error) * delta
    assert source is not None
    shape, device = gradient.shape, gradient.device
    generator = source.generator_on(device)
    if kind == "gaussian":
        drawn = torch.randn(shape, generator=generator, device=device)
    else:
        drawn = torch.rand(shape, generator=generator, device=device) - 0.5
    return gradient + gradient * drawn * delta
