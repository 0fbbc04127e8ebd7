"""Fused fake quantization on GPUs: from tensors to programs.

Whether a tensor holds NaN or infinity is found in the same pass. Asking for the answer waits for the GPU, and is left
to the training loop where that asks once a step (:func:`qcore.quantizers.checks_together`).
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from qcore.backends import Grid, TrainingKernels
from qcore.errors import UsageError
from qcore.quantizers import check_later
from qcore.tensor.integer import TINY
from qcore_backend_cuda.kernels.training import (
    bounds_kernel,
    grid_kernel,
    learned_scale_kernel,
    mask_kernel,
    range_kernel,
    sign_kernel,
    sums_kernel,
)
from qcore_backend_cuda.launch import on_device
from qcore_backend_cuda.machine import interpreted

__all__ = ["CudaTrainingKernels"]

_LARGEST = 2.0**128 - 2.0**106
_WHOLE = 16384
"""Columns of a slice that a tile holds whole."""
_TILE = 4096
_INTERPRETED_TILE = 1 << 15
"""In Python a program takes as long for many numbers as for few."""
_PARTS = 512
_LEVELS = 5


class CudaTrainingKernels(TrainingKernels):
    """Quantizes float32 tensors on a GPU; results equal those of the formulas bit for bit."""

    def round_over_range(self, x: Tensor, bits: int, *, symmetric: bool, floor: float = 0.0) -> Tensor | None:
        """Return ``x`` with each slice rounded over its own range."""
        x, y, flag = _ready(x)
        slices, n = x.shape
        q = (1 << (bits - 1)) - 1 if symmetric else (1 << bits) - 1
        numbers = (max(floor, TINY) if symmetric else TINY, _LARGEST / q, float(q))
        bounds, parts = flag, 1
        with on_device(x):
            if n <= _WHOLE:
                cols = max(triton.next_power_of_2(n), 16)
                rows = max(_tile() // cols, 1)
            else:
                rows, cols = 1, _TILE
                parts = min(triton.cdiv(n, _TILE), _PARTS)
                length = triton.cdiv(triton.cdiv(n, parts), _TILE) * _TILE
                parts = triton.cdiv(n, length)
                bounds = torch.empty((slices, parts, 2), dtype=torch.float32, device=x.device)
                bounds_kernel[(parts * slices,)](
                    x, bounds, flag, slices, n, parts, length, ROWS=1, COLS=_TILE, num_warps=8, enable_fp_fusion=False
                )
            range_kernel[(triton.cdiv(n, cols) * triton.cdiv(slices, rows),)](
                x, y, bounds, flag, slices, n, *numbers, parts, SYMMETRIC=symmetric, WHOLE=n <= _WHOLE,
                ROWS=rows, COLS=cols, PARTS=triton.next_power_of_2(parts), num_warps=_warps(rows * cols),
                enable_fp_fusion=False,
            )  # fmt: skip
        return _unless_raised(y, flag)

    def round_to_grid(self, x: Tensor, grid: Grid) -> Tensor | None:
        """Return ``x`` with each slice rounded to ``grid``."""
        x, y, flag = _ready(x)
        scale = _per_slice(grid.scale, x)
        inverse = scale if grid.inverse is None else _per_slice(grid.inverse, x)
        zero = scale if grid.zero_point is None else _per_slice(grid.zero_point, x)
        launch, tile = _tiles(x)
        with on_device(x):
            grid_kernel[launch](
                x, y, scale, inverse, zero, flag, *x.shape, float(grid.low), float(grid.high),
                EACH_SCALE=scale.numel() > 1, EACH_INVERSE=inverse.numel() > 1, EACH_ZERO=zero.numel() > 1,
                HAS_INVERSE=grid.inverse is not None, HAS_ZERO=grid.zero_point is not None, **tile,
            )  # fmt: skip
        return _unless_raised(y, flag)

    def round_to_sign(self, x: Tensor, magnitude: Tensor, threshold: Tensor | None = None) -> Tensor | None:
        """Return ``magnitude`` above the threshold, else ``-magnitude``."""
        x, y, flag = _ready(x)
        magnitude = _per_slice(magnitude, x)
        limit = magnitude if threshold is None else _per_slice(threshold, x)
        launch, tile = _tiles(x)
        with on_device(x):
            sign_kernel[launch](
                x, y, magnitude, limit, flag, *x.shape, EACH_MAGNITUDE=magnitude.numel() > 1,
                EACH_THRESHOLD=limit.numel() > 1, HAS_THRESHOLD=threshold is not None, **tile,
            )  # fmt: skip
        return _unless_raised(y, flag)

    def slice_sums(self, x: Tensor, *, magnitude: bool = False) -> Tensor:
        """Return the sums of the slices, or of their magnitudes, in the order of :mod:`qcore.tensor.sums`."""
        given = _slices(x)
        slices, at_once = len(given), 128 << _LEVELS
        sums = torch.empty((slices, 1), dtype=torch.float64, device=x.device)
        with on_device(x):
            while True:
                segments = triton.cdiv(given.shape[1], at_once)
                last = segments == 1
                out = sums if last else torch.empty((slices, segments * 128), dtype=torch.float64, device=x.device)
                sums_kernel[(segments * slices,)](
                    given, out, given.shape[1], segments, MAGNITUDE=magnitude, LEVELS=_LEVELS, LAST=last, num_warps=4
                )
                if last:
                    return sums
                given, magnitude = out, False

    def mask_gradient(self, gradient: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return ``gradient`` where ``x`` is in its range, else 0."""
        gradient, x = _pair(gradient, x)
        low, high, dx = _per_slice(low, x), _per_slice(high, x), torch.empty_like(x)
        launch, tile = _tiles(x)
        with on_device(x):
            mask_kernel[launch](
                gradient, x, low, high, dx, *x.shape, EACH_LOW=low.numel() > 1, EACH_HIGH=high.numel() > 1, **tile
            )
        return dx

    def learned_scale_gradients(
        self, gradient: Tensor, x: Tensor, scale: Tensor, low: float, high: float
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of ``x`` and of ``scale``."""
        gradient, x = _pair(gradient, x)
        shape, scale, dx = scale.shape, _per_slice(scale, x), torch.empty_like(x)
        launch, tile = _tiles(x)
        count = triton.cdiv(x.shape[1], tile["COLS"])
        parts = torch.empty((len(x), count), dtype=torch.float64, device=x.device)
        with on_device(x):
            learned_scale_kernel[launch](
                gradient, x, scale, dx, parts, *x.shape, float(low), float(high), count,
                EACH_SCALE=scale.numel() > 1, **tile,
            )  # fmt: skip
        dscale = parts.reshape(scale.numel(), -1).sum(dim=1)
        return dx, dscale.to(torch.float32).reshape(shape)


def _ready(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``x`` in one piece, room for a result, and a flag that is down."""
    x = _slices(x)
    return x, torch.empty_like(x), torch.zeros(1, dtype=torch.int32, device=x.device)


def _unless_raised(y: Tensor, flag: Tensor) -> Tensor | None:
    return y if check_later(flag, "a tensor to quantize") or not flag.item() else None


def _slices(x: Tensor) -> Tensor:
    return _readable(x, "slices")


def _pair(gradient: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    if x.shape != gradient.shape:
        raise UsageError(f"a gradient of {tuple(gradient.shape)} for {tuple(x.shape)}")
    return _slices(gradient), _slices(x)


def _per_slice(values: Tensor, x: Tensor) -> Tensor:
    """Return what is given for each slice of ``x``, or for all, in one piece."""
    if values.numel() not in (1, x.shape[0]):
        raise UsageError(f"one value a slice, or one for all, not {values.numel()} for {x.shape[0]} slices")
    return _readable(values, "values for slices")


def _readable(x: Tensor, what: str) -> Tensor:
    device = "cpu" if interpreted() else "cuda"
    if x.device.type != device or x.dtype is not torch.float32:
        raise UsageError(f"these kernels take {what} in float32 on {device}, not {x.dtype} on {x.device}")
    return x.contiguous().resolve_neg()


def _tile() -> int:
    """Return the numbers that a program takes, about."""
    return _INTERPRETED_TILE if interpreted() else _TILE


def _warps(elements: int) -> int:
    return 4 if elements <= _TILE else 8 if elements <= 2 * _TILE else 16


def _tiles(x: Tensor) -> tuple[tuple[int], dict[str, int | bool]]:
    """Return the grid, and what a launch says of a tile."""
    slices, n = x.shape
    cols = min(max(triton.next_power_of_2(n), 16), _tile())
    rows = max(_tile() // cols, 1)
    tile: dict[str, int | bool] = {"ROWS": rows, "COLS": cols, "num_warps": 4, "enable_fp_fusion": False}
    return (triton.cdiv(n, cols) * triton.cdiv(slices, rows),), tile
