"""``true4bit/activation``: activations after a ReLU, in a learned range."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, distributed, nn

from qcore.backends.training import ChosenKernels, Grid
from qcore.errors import CalibrationError
from qcore.quantizers import Quantizer, check_finite
from qcore.quantizers.config import QuantizerConfig
from qcore.quantizers.learned import learned_scale_gradients
from qcore.tensor import ActivationScheme, Encoded
from qcore.tensor.integer import affine_scale
from qcore_true4bit.quantizers.config import ActivationConfig

__all__ = ["ActivationQuantizer"]

SMALLEST = 1e-6
"""A range never shrinks below this."""


class ActivationQuantizer(Quantizer):
    """Codes ``0..n`` with ``n = 2**bits - 1`` over the range from 0 to the learned ``alpha``, one for the tensor.

    Codes are those of :class:`qcore.tensor.ActivationScheme` with a static range, so that kernels run them. ``alpha``
    begins at ``min(max x, 2 mean|x| sqrt(n))`` of the first batch that is trained on, or of a calibration.

    Gradient, with ``inside = 0 <= x <= alpha``: ``dL/dx = dL/dq * 1[inside]``, and that of the range::

        gradient="pact":  dL/dalpha = sum of dL/dq * 1[x > alpha]
        gradient="lsq":   dL/dalpha = sum of dL/dq * t / n / sqrt(f n),  v = x n / alpha
                          t = round(v) - v inside, n above, 0 below; f: elements of one sample

    Attributes:
        alpha: float32 (); 0 before it is known.

    Source: Choi et al. 2018, arXiv:1805.06085, equations 1-3; Esser et al. 2019, arXiv:1902.08153, equation 3.
    """

    Config = ActivationConfig

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__(config)
        self.config: ActivationConfig
        self.alpha = nn.Parameter(torch.zeros(()))
        self._known = False

    @property
    def needs_calibration(self) -> bool:
        """Whether the range is not known yet."""
        if not self._known:  # a look at a number halts a GPU's queue: once is enough
            self._known = bool(self.alpha != 0)
        return not self._known

    @torch.no_grad()
    def initialize(self, x: Tensor) -> None:
        """Set the range from ``x``; ranks that train together agree on one."""
        check_finite(x, self.tensor_name)
        if not x.numel():
            return
        wide = x.detach().to(torch.float32).clamp_min(0)
        found = torch.minimum(wide.amax(), 2 * wide.mean() * math.sqrt(self._largest)).clamp_min(SMALLEST)
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(found)
            found /= distributed.get_world_size()
        self.alpha.copy_(found)

    def encode(self, x: Tensor) -> Encoded:
        """Return the codes of ``x``."""
        scheme = self.scheme()
        if scheme is None:
            raise CalibrationError(
                f"{self.tensor_name} has a range that was never set",
                "train it, or call qcore.calibrate(model, batches)",
            )
        check_finite(x, self.tensor_name)
        return scheme.encode(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` fake-quantized; see the class for the gradient. Under autocast the result is float32."""
        if torch.is_autocast_enabled(x.device.type):
            x = x.float()
        if self.training and self.needs_calibration:
            self.initialize(x)
        quantized = self._fused(x)
        if quantized is None:
            quantized = self.encode(x).decode()
        if not torch.is_grad_enabled():
            return quantized
        config = self.config
        return cast(Tensor, _Pact.apply(x, self.alpha, quantized, config.bits, config.gradient == "lsq", self.kernels))  # type: ignore[no-untyped-call]

    def expected_gradient(self, x: Tensor, upstream: Tensor) -> Tensor:
        """Return ``dL/dx`` for ``upstream = dL/dq``, as documented; the conformance checks compare with it."""
        return upstream * ((x >= 0) & (x <= _range(self.alpha))).to(upstream.dtype)

    def bits(self) -> Tensor:
        """Return the width, float32 ()."""
        return torch.tensor(float(self.config.bits))

    def scheme(self) -> ActivationScheme | None:
        """Return the static scheme, once the range is known."""
        if self.needs_calibration:
            return None
        high = _range(self.alpha.detach()).reshape(1, 1)
        return ActivationScheme(self.config.bits, False, False, low=torch.zeros_like(high), high=high)

    @property
    def _largest(self) -> int:
        return (1 << self.config.bits) - 1

    def _fused(self, x: Tensor) -> Tensor | None:
        kernels = None if self.needs_calibration else self.kernels.serve(x)
        if kernels is None:
            return None
        high = _range(self.alpha.detach()).reshape(1, 1)
        scale, inverse, zero = affine_scale(torch.zeros_like(high), high, self.config.bits)
        flat = x.detach().reshape(1, -1)
        quantized = kernels.round_to_grid(flat, Grid(scale, 0, self._largest, inverse, zero))
        return None if quantized is None else quantized.reshape(x.shape)


def _range(alpha: Tensor) -> Tensor:
    return alpha.abs().clamp_min(SMALLEST)


class _Pact(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, alpha: Tensor, quantized: Tensor, bits: int, lsq: bool, kernels: ChosenKernels
    ) -> Tensor:
        ctx.save_for_backward(x, alpha)
        ctx.largest, ctx.lsq, ctx.kernels = (1 << bits) - 1, lsq, kernels
        return quantized

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        (gradient,), (x, alpha) = gradients, ctx.saved_tensors
        high = _range(alpha).reshape(1, 1)
        flat, given = x.reshape(1, -1), gradient.reshape(1, -1)
        if ctx.lsq:
            dalpha = _lsq_gradient(ctx, given, flat, high) / math.sqrt(max(x[:1].numel(), 1) * ctx.largest)
        else:
            dalpha = torch.where(flat > high, given, 0).sum(dtype=torch.float64)
        dx = _inside(ctx, given, flat, high).reshape(x.shape)
        return dx, dalpha.to(alpha.dtype).reshape(()) * alpha.sign(), None, None, None, None


def _inside(ctx: Any, gradient: Tensor, x: Tensor, high: Tensor) -> Tensor:
    low = torch.zeros_like(high)
    kernels = None if torch.is_grad_enabled() else ctx.kernels.serve(gradient)
    fused = None if kernels is None or x.dtype != gradient.dtype else kernels.mask_gradient(gradient, x, low, high)
    return gradient * ((x >= low) & (x <= high)).to(gradient.dtype) if fused is None else fused


def _lsq_gradient(ctx: Any, gradient: Tensor, x: Tensor, high: Tensor) -> Tensor:
    scale, largest = high / ctx.largest, float(ctx.largest)
    kernels = None if torch.is_grad_enabled() else ctx.kernels.serve(gradient)
    found = None
    if kernels is not None and x.dtype == gradient.dtype:
        found = kernels.learned_scale_gradients(gradient, x, scale, 0.0, largest)
    return (found or learned_scale_gradients(gradient, x, scale, 0.0, largest))[1] / largest
