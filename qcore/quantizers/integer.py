"""``core/int``: integer quantization of 1 to 8 bits."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qcore.backends.training import Grid, TrainingKernels
from qcore.errors import CalibrationError
from qcore.quantizers.base import Quantizer, check_finite, straight_through
from qcore.quantizers.config import IntConfig, QuantizerConfig
from qcore.quantizers.learned import straight_through_inside
from qcore.quantizers.ranges import find_bound, find_range
from qcore.tensor import ActivationScheme, Encoded
from qcore.tensor.integer import (
    TINY,
    affine_codes,
    affine_scale,
    as_tokens,
    grouped,
    symmetric_codes,
    symmetric_scale,
    ungrouped,
)
from qcore.tensor.sums import slice_sums

__all__ = ["IntQuantizer"]


class IntQuantizer(Quantizer):
    """Integers of 1 to 8 bits, symmetric or affine, per tensor, row, group of columns or token.

    A row is an index of axis 0 (an output neuron or channel), a token is a row of the last axis. Codes follow
    :mod:`qcore.tensor.integer` step by step; the clipping bound ``c`` of a slice is its largest magnitude, a percentile
    of its magnitudes, or the one of 32 fractions of the largest with the least squared error. One bit is
    ``sign(x) * mean|x|`` with ``sign(0) = +1``.

    Gradient: ``dL/dx = dL/dq * 1[low <= x <= high]`` (nothing is clipped with ``scale="absmax"`` and a dynamic range,
    and at 1 bit the gradient passes unmasked). Scales are functions of ``x`` without gradient.

    Attributes:
        low, high: the static range, float32 (1, 1), (rows, 1) or (rows, groups); empty before it is known. A
            dynamic range has no state.
    """

    Config = IntConfig
    low: Tensor
    high: Tensor

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__(config)
        self.config: IntConfig
        for name in ("low", "high"):
            self.register_buffer(name, torch.empty(0), persistent=not self.config.dynamic)

    @property
    def needs_calibration(self) -> bool:
        """Whether the range is static and not known yet."""
        return not self.config.dynamic and self.low.dim() == 1

    def initialize(self, x: Tensor) -> None:
        """Fix the static range from ``x``; nothing to do when dynamic."""
        if not self.config.dynamic:
            check_finite(x, self.tensor_name)
            self.low, self.high = self._range(x, self._slices(x))

    def encode(self, x: Tensor) -> Encoded:
        """Return the codes and scales of ``x``."""
        slices = self._slices(x)
        return self._encode(x, slices, *self._bounds(x, slices))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` fake-quantized; see the class for the gradient."""
        slices = self._slices(x)
        whole = slices.numel() == x.numel()  # else the last group is filled up, and slices do not lie end to end
        kernels = self.kernels.serve(x) if whole else None
        if kernels is not None and self.config.bits > 1 and not self._clips:
            flat = slices.reshape(-1, slices.shape[-1])
            quantized = kernels.round_over_range(flat, self.config.bits, symmetric=self.config.symmetric)
            if quantized is not None:
                return straight_through(x, quantized.reshape(x.shape))
        low, high = self._bounds(x, slices, kernels)
        quantized = None if kernels is None else self._fused(slices, low, high, kernels)
        if quantized is None:
            if kernels is not None:
                check_finite(x, self.tensor_name)
            quantized = self._encode(x, slices, low, high).decode_()
        if self._clips and whole:
            chosen = None if kernels is None else self.kernels
            return straight_through_inside(x, quantized.reshape(x.shape), low, high, chosen)
        mask = self._mask(x, slices, low, high) if x.requires_grad else None
        return straight_through(x, quantized.reshape(x.shape), mask)

    def expected_gradient(self, x: Tensor, upstream: Tensor) -> Tensor:
        """Return ``dL/dx`` for ``upstream = dL/dq``, as documented; the conformance checks compare with it."""
        slices = self._slices(x)
        mask = self._mask(x, slices, *self._bounds(x, slices))
        return upstream if mask is None else upstream * mask

    def bits(self) -> Tensor:
        """Return the width, float32 ()."""
        return torch.tensor(float(self.config.bits))

    def scheme(self) -> ActivationScheme | None:
        """Return the scheme of a per-token or static per-tensor input of 2 bits or more."""
        config = self.config
        if config.bits == 1 or config.scale != "absmax" and config.dynamic:
            return None
        if config.granularity == "token":
            return ActivationScheme(config.bits, config.symmetric)
        if config.granularity == "tensor" and not config.dynamic and not self.needs_calibration:
            return ActivationScheme(config.bits, config.symmetric, False, low=self.low.float(), high=self.high.float())
        return None

    def _slices(self, x: Tensor) -> Tensor:
        """View ``x`` as float32 (slices, elements), or (rows, groups, elements)."""
        if self.config.granularity == "tensor":
            return x.detach().reshape(1, -1).to(torch.float32)
        if self.config.granularity == "token":
            return as_tokens(x.detach()).to(torch.float32)
        rows = as_rows(x)
        return rows if self.config.group_size is None else grouped(rows, self.config.group_size)

    def _fused(self, slices: Tensor, low: Tensor, high: Tensor, kernels: TrainingKernels) -> Tensor | None:
        """Return what :meth:`_encode` and ``decode`` make of the slices, in one pass; None if that is not served."""
        bits, flat = self.config.bits, slices.reshape(-1, slices.shape[-1])
        if bits == 1:
            return kernels.round_to_sign(flat, high.clamp_min(TINY))
        if self.config.symmetric:
            scale, inverse = symmetric_scale(high, bits)
            q = (1 << (bits - 1)) - 1
            return kernels.round_to_grid(flat, Grid(scale, -q, q, inverse))
        scale, inverse, zero = affine_scale(low, high, bits)
        return kernels.round_to_grid(flat, Grid(scale, 0, (1 << bits) - 1, inverse, zero))

    @property
    def _clips(self) -> bool:
        """Whether a range can leave out values, which then get no gradient."""
        return self.config.bits > 1 and not (self.config.dynamic and self.config.scale == "absmax")

    def _bounds(self, x: Tensor, slices: Tensor, kernels: TrainingKernels | None = None) -> tuple[Tensor, Tensor]:
        """Return ``(low, high)`` of each slice, shaped like a scale, after a look for NaN and infinity.

        With ``kernels`` there is no such look: they find both when they round.
        """
        if self.needs_calibration:
            raise CalibrationError(
                f"{self.tensor_name} has a static range that was never set",
                "call qcore.calibrate(model, batches) first",
            )
        if self.config.dynamic and self.config.scale == "absmax":
            low, high = self._range(x, slices, kernels)
            # If the range is finite then so is x, and a look at it saves a pass over x; elsewhere a look costs more.
            if kernels is None and not (x.device.type == "cpu" and _all_finite(low, high)):
                check_finite(x, self.tensor_name)
            return low, high
        if kernels is None:
            check_finite(x, self.tensor_name)
        return self._range(x, slices) if self.config.dynamic else (self.low.float(), self.high.float())

    def _range(self, x: Tensor, slices: Tensor, kernels: TrainingKernels | None = None) -> tuple[Tensor, Tensor]:
        config = self.config
        if config.bits == 1:
            high = _mean_magnitude(slices, as_rows(x).shape[1], kernels)
            low = -high
        elif config.symmetric:
            high = find_bound(slices, config)
            low = -high
        else:
            low, high = find_range(slices, config)
        return (low.squeeze(-1), high.squeeze(-1)) if slices.dim() == 3 else (low, high)

    def _encode(self, x: Tensor, slices: Tensor, low: Tensor, high: Tensor) -> Encoded:
        bits, size = self.config.bits, self.config.group_size
        rows = slices if self.config.granularity == "token" else as_rows(x)

        def flat(codes: Tensor) -> Tensor:
            return codes.reshape(rows.shape) if size is None else ungrouped(codes, rows.shape[1])

        def per_slice(value: Tensor) -> Tensor:
            return value if size is None else value.unsqueeze(-1)

        if bits == 1:
            codes = slices + 0.0  # -0 + 0 = +0, whose sign is +1
            torch.copysign(codes.new_ones(()), codes, out=codes)
            return Encoded(flat(codes), high.clamp_min(TINY), x.shape, x.dtype, "odd", 1, None, size)
        if self.config.symmetric:
            scale, inverse = symmetric_scale(high, bits)
            codes = symmetric_codes(slices, per_slice(inverse), bits)
            return Encoded(flat(codes), scale, x.shape, x.dtype, "int", bits, None, size)
        scale, inverse, zero = affine_scale(low, high, bits)
        codes = affine_codes(slices, per_slice(inverse), per_slice(zero), bits)
        return Encoded(flat(codes), scale, x.shape, x.dtype, "uint", bits, zero, size)

    def _mask(self, x: Tensor, slices: Tensor, low: Tensor, high: Tensor) -> Tensor | None:
        if not self._clips:
            return None
        if slices.dim() == 3:
            low, high = low.unsqueeze(-1), high.unsqueeze(-1)
        inside = (slices >= low) & (slices <= high)
        if self.config.group_size is not None:
            inside = ungrouped(inside, as_rows(x).shape[1])
        return inside.reshape(x.shape).to(x.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A static range gets its shape from the data, so the buffers take the file's shape before they are compared.
        for name in ("low", "high"):
            stored = state_dict.get(prefix + name)
            if stored is not None and not self.config.dynamic:
                setattr(self, name, torch.empty_like(stored))
        load: Callable[..., None] = super()._load_from_state_dict
        load(state_dict, prefix, *args)


def as_rows(x: Tensor) -> Tensor:
    """View ``x`` as float32 (rows, cols): rows along axis 0; a vector or a scalar is one row."""
    x = x.detach().to(torch.float32)
    return x.flatten(1) if x.dim() > 1 else x.reshape(1, -1)


def _mean_magnitude(slices: Tensor, cols: int, kernels: TrainingKernels | None) -> Tensor:
    """Return the mean magnitude of each slice: float32 (..., n) to (..., 1).

    The sum is that of :mod:`qcore.tensor.sums`. Zeros that fill up the last of several groups of ``cols`` columns do
    not count.
    """
    count = slices.new_full((slices.shape[-2], 1), max(slices.shape[-1], 1), dtype=torch.float64)
    if slices.dim() == 3 and cols % slices.shape[-1]:
        count[-1] = cols % slices.shape[-1]
    sums = None
    if kernels is not None:
        sums = kernels.slice_sums(slices.reshape(-1, slices.shape[-1]), magnitude=True)
    if sums is None:
        sums = slice_sums(slices.abs())
    return (sums.reshape(*slices.shape[:-1], 1) / count).to(torch.float32)


def _all_finite(low: Tensor, high: Tensor) -> bool:
    if torch.compiler.is_compiling() or low.is_meta:
        return True
    return math.isfinite(float((high - low).sum()))  # an overflow of huge numbers only costs a closer look
