"""Tensors for training kernels to round, and what they must make of them, by torch one operation at a time."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from qcore.backends import Grid, TrainingKernels
from qcore.quantizers.learned import learned_scale_gradients
from qcore.tensor.integer import (
    affine_codes,
    affine_scale,
    odd_codes,
    odd_inverse,
    symmetric_codes,
    symmetric_scale,
)
from qcore.tensor.sums import slice_sums
from qcore.testing.inputs import generator, normal, weights

__all__ = ["TorchTrainingKernels", "grids", "slices", "with_bad_values"]

_LARGEST = torch.finfo(torch.float32).max


class TorchTrainingKernels(TrainingKernels):
    """The contract in plain torch: what every other implementation is compared with."""

    def round_over_range(self, x: Tensor, bits: int, *, symmetric: bool, floor: float = 0.0) -> Tensor | None:
        """Return ``x`` rounded over the range of each slice."""
        if not _finite(x):
            return None
        low, high = x.amin(dim=1, keepdim=True).clamp_max(0.0), x.amax(dim=1, keepdim=True).clamp_min(0.0)
        if symmetric:
            scale, inverse = symmetric_scale(torch.maximum(high, -low).clamp_min(floor), bits)
            return symmetric_codes(x, inverse, bits) * scale
        scale, inverse, zero = affine_scale(low, high, bits)
        return ((affine_codes(x, inverse, zero, bits) - zero) * scale).clamp(-_LARGEST, _LARGEST)

    def round_to_grid(self, x: Tensor, grid: Grid) -> Tensor | None:
        """Return ``x`` rounded to ``grid``."""
        if not _finite(x):
            return None
        scale = grid.scale.reshape(-1, 1)
        codes = torch.round(x / scale if grid.inverse is None else x * grid.inverse.reshape(-1, 1))
        if grid.zero_point is None:
            return codes.clamp(grid.low, grid.high) * scale
        zero = grid.zero_point.reshape(-1, 1)
        return (((codes + zero).clamp(grid.low, grid.high) - zero) * scale).clamp(-_LARGEST, _LARGEST)

    def round_to_sign(self, x: Tensor, magnitude: Tensor, threshold: Tensor | None = None) -> Tensor | None:
        """Return plus or minus ``magnitude``."""
        if not _finite(x):
            return None
        above = x >= 0 if threshold is None else x > threshold.reshape(-1, 1)
        return torch.where(above, magnitude.reshape(-1, 1), -magnitude.reshape(-1, 1))

    def round_to_odd(self, x: Tensor, half_step: Tensor, top: Tensor) -> Tensor | None:
        """Return ``x`` rounded to odd codes."""
        half = half_step.reshape(-1, 1)
        return odd_codes(x, odd_inverse(half), top.reshape(-1, 1)) * half if _finite(x) else None

    def odd_products(self, gradient: Tensor, x: Tensor, half_steps: Tensor, tops: Tensor) -> Tensor:
        """Return the products, summed in float64."""
        found = []
        for half, top in zip(torch.split(half_steps, 1, dim=1), tops, strict=True):
            terms = gradient * odd_codes(x, odd_inverse(half), top)
            found.append(terms.sum(dim=1, keepdim=True, dtype=torch.float64) * half)
        return torch.cat(found, dim=1).to(torch.float32)

    def slice_sums(self, x: Tensor, *, magnitude: bool = False) -> Tensor:
        """Return the sums, in their order."""
        return slice_sums(x.abs() if magnitude else x)

    def mask_gradient(self, gradient: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return ``gradient`` times 1 or 0."""
        return gradient * ((x >= low.reshape(-1, 1)) & (x <= high.reshape(-1, 1))).to(gradient.dtype)

    def learned_scale_gradients(
        self, gradient: Tensor, x: Tensor, scale: Tensor, low: float, high: float
    ) -> tuple[Tensor, Tensor]:
        """Return both gradients."""
        return learned_scale_gradients(gradient, x, scale.reshape(-1, 1), low, high)


def slices() -> Iterator[tuple[str, Tensor]]:
    """Yield (name, float32 (slices, n)): hard values, odd lengths, long slices and views."""
    for name, x in weights(torch.float32):
        yield name, x.reshape(x.shape[0], -1) if x.dim() > 2 else x
    for seed, n in enumerate((2, 127, 128, 129, 1000, 1153, 16_385, 40_000)):
        yield f"slices of {n}", normal((3, n), torch.float32, seed) * torch.logspace(-12, 12, n)
    yield "a tensor in one slice", normal((1, 150_001), torch.float32, 1)
    yield "negative zeros", torch.tensor([[-0.0, 0.0, -1e-9, 1.0], [-0.0, -0.0, -0.0, -0.0]])
    yield "the largest numbers", torch.tensor([[_LARGEST, -_LARGEST, 1.0], [_LARGEST, _LARGEST, _LARGEST]])
    yield "halves of a scale that has no exact reciprocal", (torch.arange(-240, 240) * 0.15).reshape(4, 120)
    yield "columns of a wider tensor", normal((5, 60), torch.float32, 2)[:, 3:20]


def grids(x: Tensor) -> Iterator[tuple[str, Grid]]:
    """Yield (name, grid): one scale for all and one a slice, products and quotients, with zero points and without."""
    for count in {1, x.shape[0]}:
        scale = torch.rand(count, 1, generator=generator(3)) * x.abs().max().clamp_min(1e-30) + 2.0**-100
        zero = torch.arange(count).reshape(-1, 1) % 8.0
        for inverse in (None, 1.0 / scale):
            how = "x / scale" if inverse is None else "x * inverse"
            yield f"{count} scales, {how}, symmetric", Grid(scale, -7, 7, inverse)
            yield f"{count} scales, {how}, unsigned", Grid(scale, 0, 15, inverse)
            yield f"{count} scales, {how}, affine", Grid(scale, 0, 15, inverse, zero)
    least = torch.where(x == 0, _LARGEST, x.abs()).min()
    yield "twice the least magnitude, which ties", Grid((least * 2).clamp(2.0**-100, _LARGEST).reshape(1, 1), -99, 99)


def with_bad_values() -> Iterator[tuple[str, Tensor]]:
    """Yield (name, float32 (slices, n)) with one value that is NaN or infinite, near and far from the ends."""
    for bad in (torch.nan, torch.inf, -torch.inf):
        for n in (1, 5, 64, 40_000):
            for place in {0, n // 2, n - 1}:
                x = normal((2, n), torch.float32)
                x[1, place] = bad
                yield f"{bad} at {place} of {n}", x


def _finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())
