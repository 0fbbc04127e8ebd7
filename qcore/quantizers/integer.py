"""``core/int``: integer quantization of 1 to 8 bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from qcore.errors import CalibrationError
from qcore.quantizers.base import Quantizer, check_finite, straight_through
from qcore.quantizers.config import IntConfig, QuantizerConfig
from qcore.quantizers.ranges import find_bound, find_range
from qcore.tensor import ActivationScheme, Encoded
from qcore.tensor.integer import (
    TINY,
    affine_codes,
    affine_scale,
    grouped,
    symmetric_codes,
    symmetric_scale,
    ungrouped,
)

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
        low, high: the static range, float32 (1, 1), (rows, 1) or (rows, groups); empty before it is known, and always
            empty when dynamic.
    """

    Config = IntConfig
    low: Tensor
    high: Tensor

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__(config)
        self.config: IntConfig
        self.register_buffer("low", torch.empty(0))
        self.register_buffer("high", torch.empty(0))

    @property
    def needs_calibration(self) -> bool:
        """Whether the range is static and not known yet."""
        return not self.config.dynamic and self.low.numel() == 0

    def initialize(self, x: Tensor) -> None:
        """Fix the static range from ``x``; nothing to do when dynamic."""
        if not self.config.dynamic:
            check_finite(x, self.tensor_name)
            self.low, self.high = self._range(self._slices(x))

    def encode(self, x: Tensor) -> Encoded:
        """Return the codes and scales of ``x``."""
        check_finite(x, self.tensor_name)
        if self.needs_calibration:
            raise CalibrationError(
                f"{self.tensor_name} has a static range that was never set",
                "call qcore.calibrate(model, batches) first",
            )
        scheme = self.scheme()
        if scheme is not None and self.config.granularity == "token":
            return scheme.encode(x)
        return self._encode_slices(x, self._slices(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` fake-quantized; see the class for the gradient."""
        return straight_through(x, self.encode(x).decode(), self._mask(x) if x.requires_grad else None)

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
        x = x.detach().to(torch.float32)
        granularity = self.config.granularity
        if granularity == "tensor":
            return x.reshape(1, -1)
        if granularity == "token":
            return x.reshape(-1, x.shape[-1]) if x.dim() else x.reshape(1, 1)
        rows = as_rows(x)
        return rows if self.config.group_size is None else grouped(rows, self.config.group_size)

    def _range(self, slices: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``(low, high)`` of each slice, shaped like a scale."""
        config = self.config
        if config.bits == 1:
            # Zeros that fill up the last group must not count, so the mean is taken over what is there.
            bound = _mean_magnitude(slices).unsqueeze(-1)
            low, high = -bound, bound
        elif config.symmetric:
            high = find_bound(slices, config)
            low = -high
        else:
            low, high = find_range(slices, config)
        return (low.squeeze(-1), high.squeeze(-1)) if slices.dim() == 3 else (low, high)

    def _encode_slices(self, x: Tensor, slices: Tensor) -> Encoded:
        bits, size = self.config.bits, self.config.group_size
        rows = as_rows(x) if self.config.granularity != "token" else slices
        cols = rows.shape[1]
        static = (self.low.float(), self.high.float())
        low, high = self._fill(x, *self._range(slices)) if self.config.dynamic else static

        def flat(codes: Tensor) -> Tensor:
            codes = codes if size is None else ungrouped(codes, cols)
            return codes.reshape(rows.shape)

        def per_slice(value: Tensor) -> Tensor:
            return value if size is None else value.unsqueeze(-1)

        if bits == 1:
            codes = torch.where(slices >= 0, 1.0, -1.0)
            return Encoded(flat(codes), high.clamp_min(TINY), x.shape, x.dtype, "odd", 1, None, size)
        if self.config.symmetric:
            scale, inverse = symmetric_scale(high, bits)
            codes = symmetric_codes(slices, per_slice(inverse), bits)
            return Encoded(flat(codes), scale, x.shape, x.dtype, "int", bits, None, size)
        scale, inverse, zero = affine_scale(low, high, bits)
        codes = affine_codes(slices, per_slice(inverse), per_slice(zero), bits)
        return Encoded(flat(codes), scale, x.shape, x.dtype, "uint", bits, zero, size)

    def _fill(self, x: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Correct the 1-bit mean of a last group that is filled up with zeros."""
        size = self.config.group_size
        if self.config.bits != 1 or size is None:
            return low, high
        cols = as_rows(x).shape[1]
        counts = torch.full((high.shape[1],), size, device=x.device, dtype=torch.float32)
        counts[-1] = cols - size * (high.shape[1] - 1)
        high = high * (size / counts)
        return -high, high

    def _mask(self, x: Tensor) -> Tensor | None:
        config = self.config
        if config.bits == 1 or (config.dynamic and config.scale == "absmax"):
            return None
        slices = self._slices(x)
        low, high = self._range(slices) if config.dynamic else (self.low, self.high)
        if slices.dim() == 3:
            low, high = low.unsqueeze(-1), high.unsqueeze(-1)
        inside = (slices >= low) & (slices <= high)
        if config.group_size is not None:
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
    return x.reshape(x.shape[0], -1) if x.dim() > 1 else x.reshape(1, -1)


def _mean_magnitude(slices: Tensor) -> Tensor:
    # float64: the sum of many huge magnitudes must not overflow.
    return slices.abs().mean(dim=-1, dtype=torch.float64).to(torch.float32) if slices.shape[-1] else slices.sum(dim=-1)
