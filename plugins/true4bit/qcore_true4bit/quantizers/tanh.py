"""``true4bit/tanh``: weights in fifteen levels."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from qcore.backends.training import Grid
from qcore.quantizers import Quantizer, check_finite, learned_scale, straight_through
from qcore.quantizers.config import IntConfig, QuantizerConfig
from qcore.quantizers.integer import as_rows
from qcore.quantizers.ranges import find_bound
from qcore.tensor import Encoded
from qcore.tensor.integer import TINY
from qcore_true4bit.quantizers.config import TanhConfig

__all__ = ["TanhQuantizer"]


class TanhQuantizer(Quantizer):
    """Symmetric codes ``-q..q`` with ``q = 2**(bits-1) - 1``: fifteen levels at 4 bits.

    For each slice (the tensor, or a row: an index of axis 0), in float32 and in this order::

        c    = max|W|                            # scale="absmax", at every call
        s    = max(c / q, 2**-100)
        code = clamp(round(W / s), -q, q)        # ties to even
        W_q  = code * s

    so that the largest magnitude of a slice, if above ``q 2**-100``, has code ``-q`` or ``q``, and quantizing ``W_q``
    again gives the same codes and scale. With ``scale="mse"`` the bound ``c`` is the one of 32 fractions of the largest
    magnitude with the least squared error, with ``"fixed"`` what it was when the layer was made, and with ``"learned"``
    ``s`` is a parameter that begins at ``2 mean|W| / sqrt(q)``.

    Gradient: ``dL/dW = dL/dW_q`` for every element; the scale is a constant. With ``"learned"`` those of LSQ (see
    ``qcore.quantizers.learned_scale``), that of the scale times ``1 / sqrt(n q)`` for slices of ``n`` elements.

    The tanh of the name is no part of it: it is the soft clip that follows each step of the optimizer
    (:class:`qcore_true4bit.clip.SoftClip`).

    Attributes:
        step: the fixed or learned scale, float32 (slices,); empty for the others.

    Source: Tathe 2026, arXiv:2603.13931, equations 1-4 and 6-8; Esser et al. 2019, arXiv:1902.08153, for the learned
    scale.
    """

    Config = TanhConfig
    step: Tensor

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__(config)
        self.config: TanhConfig
        self._largest = (1 << (self.config.bits - 1)) - 1
        self._least_error = IntConfig.model_validate({"bits": self.config.bits, "scale": "mse"})
        if self._learns:
            self.step = nn.Parameter(torch.empty(0))
        else:
            self.register_buffer("step", torch.empty(0))

    def initialize(self, x: Tensor) -> None:
        """Set a fixed or learned scale from the weight ``x``; nothing to do for the others."""
        if self._learns:
            check_finite(x, self.tensor_name)
            begin = 2 * self._slices(x).abs().mean(dim=1) / math.sqrt(self._largest)
            self.step = nn.Parameter(begin.clamp_min(TINY))
        elif self.config.scale == "fixed":
            self.step = self._scale_of_range(x).flatten()

    def encode(self, x: Tensor) -> Encoded:
        """Return the codes and scales of ``x``."""
        check_finite(x, self.tensor_name)
        scale = self._scale(x)
        codes = (self._slices(x) / scale).round_().clamp_(-self._largest, self._largest)
        return Encoded(codes.reshape(as_rows(x).shape), scale, x.shape, x.dtype, "int", self.config.bits)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` fake-quantized; see the class for the gradient."""
        largest = self._largest
        if self._learns:
            elements = max(x.numel() // max(self.step.numel(), 1), 1)
            factor = 1 / math.sqrt(elements * largest)
            scale = _scale_gradient(self.step, factor).abs().clamp_min(TINY)
            quantized: Tensor = learned_scale(x, scale, -largest, largest, self.kernels, self.tensor_name)
            return quantized
        kernels = self.kernels.serve(x)
        if kernels is not None:
            fused = kernels.round_to_grid(self._slices(x), Grid(self._scale(x), -largest, largest))
            if fused is not None:
                return straight_through(x, fused.reshape(x.shape))
        return straight_through(x, self.encode(x).decode_())

    def expected_gradient(self, x: Tensor, upstream: Tensor) -> Tensor:
        """Return ``dL/dx`` for ``upstream = dL/dq``, as documented; the conformance checks compare with it."""
        if not self._learns:
            return upstream
        v = self._slices(x) / self._scale(x)
        inside: Tensor = (v > -self._largest) & (v < self._largest)
        return upstream * inside.reshape(x.shape).to(upstream.dtype)

    def bits(self) -> Tensor:
        """Return the width, float32 ()."""
        return torch.tensor(float(self.config.bits))

    @property
    def _learns(self) -> bool:
        return self.config.scale == "learned"

    def _slices(self, x: Tensor) -> Tensor:
        """View ``x`` as float32 (slices, elements)."""
        return as_rows(x).reshape(1, -1) if self.config.granularity == "tensor" else as_rows(x)

    def _scale(self, x: Tensor) -> Tensor:
        """Return the scale of each slice, float32 (slices, 1)."""
        if self.step.numel():
            return self.step.detach().abs().clamp_min(TINY).unsqueeze(1)
        return self._scale_of_range(x)

    def _scale_of_range(self, x: Tensor) -> Tensor:
        slices, config = self._slices(x), self.config
        if slices.shape[1] == 0:
            return slices.new_full((slices.shape[0], 1), TINY)
        if config.scale == "mse":
            bound = find_bound(slices, self._least_error)
        elif slices.shape[0] == 1:
            low, high = slices.aminmax()
            bound = torch.maximum(-low, high).reshape(1, 1)
        else:
            bound = torch.maximum(slices.amax(dim=1, keepdim=True), -slices.amin(dim=1, keepdim=True))
        # Two tensors are divided; torch multiplies by the reciprocal of a number.
        return (bound / bound.new_full((), float(self._largest))).clamp(TINY, _LARGEST_SCALE)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # The scale gets its shape from the weight, so it takes the file's shape before the two are compared.
        stored = state_dict.get(prefix + "step")
        if stored is not None and stored.shape != self.step.shape:
            empty = self.step.new_empty(stored.shape)
            self.step = nn.Parameter(empty) if self._learns else empty
        load: Callable[..., None] = super()._load_from_state_dict
        load(state_dict, prefix, *args)


_LARGEST_SCALE = (2.0**128 - 2.0**106) / 127
"""No code of 8 bits or fewer times this overflows float32."""


class _ScaledGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def _scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return ``x`` with its gradient times ``factor``."""
    return cast(Tensor, _ScaledGradient.apply(x, factor))  # type: ignore[no-untyped-call]
