"""Numbers in 8 bits with a float32 peak for each block of a row: how optimizer state is stored."""

from __future__ import annotations

import torch
from torch import Tensor

from qcore_true4bit.resident.codes import round_stochastic

__all__ = ["BLOCK", "block_count", "decode_signed", "decode_unsigned", "encode_signed", "encode_unsigned"]

BLOCK = 256
"""The most elements that share a peak."""

_OCTAVES = 24
"""The unsigned map reaches from the peak of a block down to ``2**-24`` of it."""


def block_count(cols: int) -> int:
    """Return how many blocks, of nearly equal length, a row of ``cols`` elements has."""
    return max(1, -(-cols // BLOCK))


def encode_signed(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``(codes, peaks)`` of ``x`` (rows, cols): int8 (rows, cols) and float32 (rows, blocks).

    ``code = round(127 sign(x) sqrt(|x| / peak))``: steps are finer towards zero. The error is at most
    ``peak * (2 sqrt(|x| / peak) / 254 + 1 / 254**2)``. Block-wise peaks: Dettmers et al. 2021, arXiv:2110.02861,
    section 2.1; the map is another than theirs.
    """
    peaks = _peaks(x)
    scaled = _times(x, 127.0**2 / peaks)
    return scaled.abs().sqrt_().copysign_(x).round_().to(torch.int8), peaks


def decode_signed(codes: Tensor, peaks: Tensor) -> Tensor:
    """Return ``sign(code) (code / 127)**2 peak``, float32 (rows, cols)."""
    values = codes.to(torch.float32)
    return _times(values.mul_(values.abs()), peaks / 127.0**2)


def encode_unsigned(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return ``(codes, peaks)`` of ``x`` (rows, cols), at least 0: uint8 (rows, cols) and float32 (rows, blocks).

    Code 0 is zero, code ``k`` is ``peak * 2**(-24 (255 - k) / 254)``: neighbours differ by 6.8 %. Rounding between them
    is stochastic in the logarithm, since an average of ``beta = 0.999`` moves by less than half of that in a step and
    would stand still. What is above zero and below the smallest becomes the smallest.
    """
    peaks = _peaks(x)
    level = _times(x, 1 / peaks).log2_().mul_(254 / _OCTAVES).add_(255)
    codes = round_stochastic(level.clamp_(1, 255), generator).clamp_(1, 255)
    return codes.mul_(x > 0).to(torch.uint8), peaks


def decode_unsigned(codes: Tensor, peaks: Tensor) -> Tensor:
    """Return the inverse of :func:`encode_unsigned`, float32 (rows, cols)."""
    values = codes.to(torch.float32).sub_(255).mul_(_OCTAVES / 254).exp2_().mul_(codes > 0)
    return _times(values, peaks)


def _peaks(x: Tensor) -> Tensor:
    """Return the largest magnitude of each block (rows, blocks); 1 where all are zero."""
    blocks = _in_blocks(x)
    peaks = torch.maximum(blocks.amax(dim=2), blocks.amin(dim=2).neg_())
    return torch.where(peaks > torch.finfo(torch.float32).tiny * 127**2, peaks, torch.ones_like(peaks))


def _times(x: Tensor, per_block: Tensor) -> Tensor:
    return (_in_blocks(x) * per_block.unsqueeze(2)).flatten(1)[:, : x.shape[1]]


def _in_blocks(x: Tensor) -> Tensor:
    """View (rows, cols) as (rows, blocks, length); the last block is filled up with zeros."""
    blocks = block_count(x.shape[1])
    padded = torch.nn.functional.pad(x, (0, -x.shape[1] % blocks)) if x.shape[1] % blocks else x
    return padded.reshape(x.shape[0], blocks, -1)
