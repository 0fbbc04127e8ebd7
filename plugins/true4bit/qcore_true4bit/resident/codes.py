"""Codes: -7..7, two a byte, and the roundings that make them."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LARGEST", "best_scale", "dither", "mean_scale", "pack_codes", "round_stochastic", "unpack_codes"]

LARGEST = 7
"""15 levels: -8, which four bits could hold, is not used."""

_OFFSET = 8
_WORDS = 1 << 16
_FRACTIONS = torch.arange(1, 41) / 40
"""Parts of the largest magnitude that :func:`best_scale` tries as the clipping bound."""


def pack_codes(codes: Tensor) -> Tensor:
    """Return the bytes of ``codes``: float32 whole numbers (rows, cols) to uint8 (rows, ceil(cols / 2)).

    The layout is that of the codec ``packn@1`` at 4 bits with encoding ``int``: ``code + 8``, the first code of a pair
    in the low half of the byte, the unused half at the end of a row 0.
    """
    stored = (codes + _OFFSET).to(torch.uint8)
    packed = stored[:, 0::2].clone()
    packed[:, : codes.shape[1] // 2] |= stored[:, 1::2] << 4
    return packed


def unpack_codes(data: Tensor, cols: int) -> Tensor:
    """Return the codes in ``data``, float32 (rows, cols): the inverse of :func:`pack_codes`."""
    pairs = torch.empty(*data.shape, 2, device=data.device)
    pairs[..., 0] = data & 15
    pairs[..., 1] = data >> 4
    return pairs.flatten(1).sub_(_OFFSET)[:, :cols]


def dither(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Return uniform numbers in (-1/2, 1/2), float32 of ``shape`` on the generator's device.

    They have 16 bits, so the chance that :func:`round_stochastic` takes is off by up to ``2**-17``. One draw of the
    generator gives four of them.
    """
    count = shape.numel()
    words = torch.empty(-(-count // 4), dtype=torch.int64, device=generator.device)
    halves = words.random_(-(2**63), None, generator=generator).view(torch.int16)
    return halves[:count].to(torch.float32).add_(0.5).mul_(1 / _WORDS).view(shape)


def round_stochastic(x: Tensor, generator: torch.Generator) -> Tensor:
    """Round ``x`` in place to one of its two whole neighbours, the nearer one more often, so that the mean is ``x``.

    ``floor(x + u)`` with ``u`` uniform in (0, 1). Source: Gupta et al. 2015, arXiv:1502.02551, section 3.
    """
    return x.add_(dither(x.shape, generator)).add_(0.5).floor_()


def mean_scale(weight: Tensor) -> Tensor:
    """Return ``2 mean|w| / sqrt(7)`` of each row of ``weight`` (rows, cols), float32 (rows,).

    A row of zeros gets ``0.335 / sqrt(cols)``, about the best scale of numbers of variance ``1 / cols``.

    Source: Esser et al. 2019, arXiv:1902.08153, section 2.1.
    """
    return _usable(weight.abs().mean(dim=1).mul(2 / LARGEST**0.5), weight.shape[1])


def best_scale(weight: Tensor) -> Tensor:
    """Return for each row of ``weight`` (rows, cols) the scale with the least squared error of 40, float32 (rows,).

    Zeros are treated as by :func:`mean_scale`.
    """
    peak = weight.abs().amax(dim=1)
    best, least = peak / LARGEST, torch.full_like(peak, torch.inf)
    for fraction in _FRACTIONS.tolist():
        scale = peak * (fraction / LARGEST)
        step = scale.unsqueeze(1)
        error = (weight / step).round_().clamp_(-LARGEST, LARGEST).mul_(step).sub_(weight).square_().sum(dim=1)
        best = torch.where(error < least, scale, best)
        least = torch.minimum(error, least)
    return _usable(best, weight.shape[1])


def _usable(scale: Tensor, cols: int) -> Tensor:
    usable = scale > torch.finfo(torch.float32).tiny * 1024
    return torch.where(usable, scale, torch.full_like(scale, 0.335 / cols**0.5))
