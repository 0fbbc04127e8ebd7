"""The kernels of training as ``torch.library`` ops, for graphs that want them by name.

Each computes what the method of that name of :class:`qcore.backends.TrainingKernels` does, on float32 (slices, n) on
the CPU; where that finds NaN or infinity the op returns NaN everywhere. Quantizers do not come this way: eager ones
call the kernels, compiled ones become torch's own operations, which a compiler fuses with their neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qcore.backends import Grid
from qcore.errors import UsageError
from qcore_backend_cpu.training import CpuTrainingKernels

__all__ = [
    "learned_scale_gradients_op",
    "mask_gradient_op",
    "round_over_range_op",
    "round_to_grid_op",
    "round_to_sign_op",
    "slice_sums_op",
]


def _round_over_range(x: Tensor, bits: int, symmetric: bool, floor: float) -> Tensor:
    _check(x)
    if not 2 <= bits <= 8:
        raise UsageError(f"2 to 8 bits, not {bits}")
    return _or_nan(x, CpuTrainingKernels().round_over_range(x, bits, symmetric=symmetric, floor=floor))


def _round_to_grid(
    x: Tensor, scale: Tensor, low: float, high: float, inverse: Tensor | None, zero_point: Tensor | None
) -> Tensor:
    _check(x, scale, inverse, zero_point)
    return _or_nan(x, CpuTrainingKernels().round_to_grid(x, Grid(scale, low, high, inverse, zero_point)))


def _round_to_sign(x: Tensor, magnitude: Tensor, threshold: Tensor | None) -> Tensor:
    _check(x, magnitude, threshold)
    return _or_nan(x, CpuTrainingKernels().round_to_sign(x, magnitude, threshold))


def _slice_sums(x: Tensor, magnitude: bool) -> Tensor:
    _check(x)
    return CpuTrainingKernels().slice_sums(x, magnitude=magnitude)


def _mask_gradient(gradient: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    _check(x, low, high)
    _check_pair(gradient, x)
    return CpuTrainingKernels().mask_gradient(gradient, x, low, high)


def _learned_scale_gradients(
    gradient: Tensor, x: Tensor, scale: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    _check(x, scale)
    _check_pair(gradient, x)
    return CpuTrainingKernels().learned_scale_gradients(gradient, x, scale, low, high)


def _check(x: Tensor, *per_slice: Tensor | None) -> None:
    """Refuse what the kernels cannot read: an op can be called with anything."""
    if x.dim() != 2 or x.dtype is not torch.float32:
        raise UsageError(f"float32 slices (slices, n), not {tuple(x.shape)} {x.dtype}")
    for values in per_slice:
        if values is not None and (values.dtype is not torch.float32 or values.numel() not in (1, x.shape[0])):
            raise UsageError(f"one float32 a slice, or one for all, not {tuple(values.shape)} {values.dtype}")


def _check_pair(gradient: Tensor, x: Tensor) -> None:
    if gradient.shape != x.shape or gradient.dtype is not x.dtype:
        raise UsageError(f"a gradient like {tuple(x.shape)}, not {tuple(gradient.shape)} {gradient.dtype}")


def _or_nan(x: Tensor, y: Tensor | None) -> Tensor:
    return torch.full_like(x, torch.nan, memory_format=torch.contiguous_format) if y is None else y


def _like_first(x: Tensor, *_: object) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _one_a_slice(x: Tensor, magnitude: bool) -> Tensor:
    return x.new_empty((x.shape[0], 1), dtype=torch.float64)


def _like_first_and_third(gradient: Tensor, x: Tensor, scale: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    return _like_first(gradient), _like_first(scale)


_LIBRARY = torch.library.Library("qcore_cpu", "FRAGMENT")  # type: ignore[no-untyped-call]
for _schema, _run, _fake in (
    ("round_over_range(Tensor x, int bits, bool symmetric, float floor) -> Tensor", _round_over_range, _like_first),
    (
        "round_to_grid(Tensor x, Tensor scale, float low, float high, Tensor? inverse, Tensor? zero_point) -> Tensor",
        _round_to_grid,
        _like_first,
    ),
    ("round_to_sign(Tensor x, Tensor magnitude, Tensor? threshold) -> Tensor", _round_to_sign, _like_first),
    ("slice_sums(Tensor x, bool magnitude) -> Tensor", _slice_sums, _one_a_slice),
    ("mask_gradient(Tensor gradient, Tensor x, Tensor low, Tensor high) -> Tensor", _mask_gradient, _like_first),
    (
        "learned_scale_gradients(Tensor gradient, Tensor x, Tensor scale, float low, float high) -> (Tensor, Tensor)",
        _learned_scale_gradients,
        _like_first_and_third,
    ),
):
    _name = _schema.partition("(")[0]
    _LIBRARY.define(_schema)  # type: ignore[no-untyped-call]
    _LIBRARY.impl(_name, _run, "CPU")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"qcore_cpu::{_name}", _fake, lib=_LIBRARY)

round_over_range_op = torch.ops.qcore_cpu.round_over_range.default
round_to_grid_op = torch.ops.qcore_cpu.round_to_grid.default
round_to_sign_op = torch.ops.qcore_cpu.round_to_sign.default
slice_sums_op = torch.ops.qcore_cpu.slice_sums.default
mask_gradient_op = torch.ops.qcore_cpu.mask_gradient.default
learned_scale_gradients_op = torch.ops.qcore_cpu.learned_scale_gradients.default
