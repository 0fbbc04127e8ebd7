"""Fake quantization for training by compiled kernels, in one pass over memory each way."""

from __future__ import annotations

import torch
from torch import Tensor

from qcore.backends import Grid, TrainingKernels
from qcore.errors import UsageError
from qcore.tensor.integer import odd_inverse
from qcore_backend_cpu.native import chosen_isa, load

__all__ = ["CpuTrainingKernels"]

_ABSENT = (0, False)


class CpuTrainingKernels(TrainingKernels):
    """Serves float32 tensors on the CPU; those that do not lie in one piece are copied first.

    Whatever else a method is given is a UsageError: tensors are read by their addresses.

    Attributes:
        isa: the instruction set that runs.
    """

    def __init__(self, isa: str | None = None) -> None:
        self.isa = isa or chosen_isa()
        self._native, _ = load()

    def round_over_range(self, x: Tensor, bits: int, *, symmetric: bool, floor: float = 0.0) -> Tensor | None:
        """Return ``x`` with each slice rounded over its own range."""
        x, y, threads = _ready(x)
        address, (slices, n) = x.data_ptr(), x.shape
        finite = self._native.fake_quantize(self.isa, address, slices, n, bits, symmetric, floor, y.data_ptr(), threads)
        return y if finite else None

    def round_to_grid(self, x: Tensor, grid: Grid) -> Tensor | None:
        """Return ``x`` with each slice rounded to ``grid``."""
        x, y, threads = _ready(x)
        slices, n = x.shape
        inverse, zero = grid.inverse, grid.zero_point
        scale = _per_slice(grid.scale, x)
        inverse = None if inverse is None else _per_slice(inverse, x)
        zero = None if zero is None else _per_slice(zero, x)
        finite = self._native.round_to_grid(
            self.isa,
            x.data_ptr(),
            slices,
            n,
            _values(inverse, slices),
            _values(scale, slices),
            _values(zero, slices),
            grid.low,
            grid.high,
            y.data_ptr(),
            threads,
        )
        return y if finite else None

    def round_to_sign(self, x: Tensor, magnitude: Tensor, threshold: Tensor | None = None) -> Tensor | None:
        """Return ``magnitude`` above the threshold, else ``-magnitude``."""
        x, y, threads = _ready(x)
        slices, n = x.shape
        magnitude, threshold = _per_slice(magnitude, x), None if threshold is None else _per_slice(threshold, x)
        limits, values = _values(threshold, slices), _values(magnitude, slices)
        finite = self._native.round_to_sign(self.isa, x.data_ptr(), slices, n, limits, values, y.data_ptr(), threads)
        return y if finite else None

    def round_to_odd(self, x: Tensor, half_step: Tensor, top: Tensor) -> Tensor | None:
        """Return ``x`` rounded to odd multiples of the half steps."""
        x, y, threads = _ready(x)
        slices, n = x.shape
        half, top = _per_slice(half_step, x), _per_slice(top, x)
        inverse = odd_inverse(half)
        numbers = [_values(values, slices) for values in (inverse, half, top)]
        finite = self._native.round_to_odd(self.isa, x.data_ptr(), slices, n, *numbers, y.data_ptr(), threads)
        return y if finite else None

    def odd_products(self, gradient: Tensor, x: Tensor, half_steps: Tensor, tops: Tensor) -> Tensor:
        """Return the products of ``gradient`` with ``x`` rounded to each width."""
        gradient = _slices(gradient)
        x, half, tops = _like(x, gradient), _readable(half_steps, "half steps"), _readable(tops, "tops")
        (slices, n), count = x.shape, tops.numel()
        if half.shape != (slices, count):
            raise UsageError(f"half steps of {slices} slices and {count} widths, not {tuple(half.shape)}")
        inverse, found = odd_inverse(half), torch.empty_like(half)
        numbers = (values.data_ptr() for values in (inverse, half, tops, found))
        self._native.odd_products(
            self.isa, gradient.data_ptr(), x.data_ptr(), slices, n, count, *numbers, torch.get_num_threads()
        )
        return found

    def slice_sums(self, x: Tensor, *, magnitude: bool = False) -> Tensor:
        """Return the sums of the slices, or of their magnitudes, in the order of :mod:`qcore.tensor.sums`."""
        x = _slices(x)
        slices, n = x.shape
        sums = x.new_empty((slices, 1), dtype=torch.float64)
        threads = torch.get_num_threads()
        self._native.slice_sums(self.isa, x.data_ptr(), slices, n, magnitude, sums.data_ptr(), threads)
        return sums

    def mask_gradient(self, gradient: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return ``gradient`` where ``x`` is in its range, else 0."""
        gradient, dx, threads = _ready(gradient)
        x, low, high, (slices, n) = _like(x, gradient), _per_slice(low, x), _per_slice(high, x), x.shape
        bottom, top = _values(low, slices), _values(high, slices)
        addresses = gradient.data_ptr(), x.data_ptr()
        self._native.mask_gradient(self.isa, *addresses, slices, n, bottom, top, dx.data_ptr(), threads)
        return dx

    def learned_scale_gradients(
        self, gradient: Tensor, x: Tensor, scale: Tensor, low: float, high: float
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of ``x`` and of ``scale``."""
        gradient, dx, threads = _ready(gradient)
        x, scale, (slices, n) = _like(x, gradient), _per_slice(scale, x), x.shape
        dscale = torch.empty_like(scale)
        addresses, values = (gradient.data_ptr(), x.data_ptr()), _values(scale, slices)
        out = dx.data_ptr(), dscale.data_ptr()
        self._native.learned_scale_gradients(self.isa, *addresses, slices, n, values, low, high, *out, threads)
        return dx, dscale


def _ready(x: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return ``x`` in one piece, room for a result, and how many threads may run."""
    x = _slices(x)
    return x, torch.empty_like(x), torch.get_num_threads()


def _slices(x: Tensor) -> Tensor:
    """Return slices (slices, n) in one piece, to be read by their address."""
    return _readable(x, "slices")


def _like(x: Tensor, gradient: Tensor) -> Tensor:
    """Return what ``gradient`` belongs to, in one piece."""
    if x.shape != gradient.shape:
        raise UsageError(f"a gradient of {tuple(gradient.shape)} for {tuple(x.shape)}")
    return _slices(x)


def _per_slice(values: Tensor, x: Tensor) -> Tensor:
    """Return what is given for each slice of ``x``, or for all, in one piece."""
    if values.numel() not in (1, x.shape[0]):
        raise UsageError(f"one value a slice, or one for all, not {values.numel()} for {x.shape[0]} slices")
    return _readable(values, "values for slices")


def _readable(x: Tensor, what: str) -> Tensor:
    if x.device.type != "cpu" or x.dtype is not torch.float32:
        raise UsageError(f"these kernels take {what} in float32 on the CPU, not {x.dtype} on {x.device}")
    return x.contiguous().resolve_neg()


def _values(values: Tensor | None, slices: int) -> tuple[int, bool]:
    """Return the address of what is given for each slice, and whether there is one for each."""
    if values is None:
        return _ABSENT
    return values.data_ptr(), values.numel() == slices
