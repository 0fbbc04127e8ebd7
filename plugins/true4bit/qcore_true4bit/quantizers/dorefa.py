"""``true4bit/dorefa``: weights through a tanh onto an even number of levels."""

from __future__ import annotations

import torch
from torch import Tensor

from qcore.quantizers import Quantizer, check_finite, straight_through
from qcore.quantizers.config import QuantizerConfig
from qcore.quantizers.integer import as_rows
from qcore.tensor import Encoded
from qcore.tensor.integer import TINY
from qcore_true4bit.quantizers.config import DoReFaConfig

__all__ = ["DoReFaQuantizer"]


class DoReFaQuantizer(Quantizer):
    """Levels from -1 to 1, whatever the magnitude of the weights.

    With ``n = 2**bits - 1``::

        t    = tanh(W) / max|tanh(W)|            # over the tensor, float32
        u    = round((t / 2 + 1/2) n)            # 0..n, ties to even
        W_q  = (2 u - n) * (1 / n)

    Gradient: ``dL/dW = dL/dW_q * (1 - tanh(W)^2) / max|tanh(W)|``; the maximum is a constant. There is no level 0. The
    output is far larger than the weights: a norm should follow the layer.

    Source: Zhou et al. 2016, arXiv:1606.06160, equation 9.
    """

    Config = DoReFaConfig

    def __init__(self, config: QuantizerConfig | None = None) -> None:
        super().__init__(config)
        self.config: DoReFaConfig

    def encode(self, x: Tensor) -> Encoded:
        """Return the codes and scales of ``x``."""
        check_finite(x, self.tensor_name)
        return self._encode(x, *_tanh(x))

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` fake-quantized; see the class for the gradient."""
        check_finite(x, self.tensor_name)
        tanh, largest = _tanh(x)
        slope = ((1 - tanh.square()) / largest).to(x.dtype) if x.requires_grad else None
        return straight_through(x, self._encode(x, tanh, largest).decode_(), slope)

    def expected_gradient(self, x: Tensor, upstream: Tensor) -> Tensor:
        """Return ``dL/dx`` for ``upstream = dL/dq``, as documented; the conformance checks compare with it."""
        tanh, largest = _tanh(x)
        return upstream * ((1 - tanh.square()) / largest).to(x.dtype)

    def bits(self) -> Tensor:
        """Return the width, float32 ()."""
        return torch.tensor(float(self.config.bits))

    def _encode(self, x: Tensor, tanh: Tensor, largest: Tensor) -> Encoded:
        n = (1 << self.config.bits) - 1
        codes = (tanh / largest).mul_(0.5).add_(0.5).mul_(n).round_().mul_(2).sub_(n)
        scale = codes.new_full((1, 1), 1 / n)
        return Encoded(codes.reshape(as_rows(x).shape), scale, x.shape, x.dtype, "odd", self.config.bits)


def _tanh(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return tanh, float32 shaped like ``x``, and its largest magnitude, float32 ()."""
    tanh = torch.tanh(x.detach().to(torch.float32))
    largest = tanh.abs().amax() if x.numel() else tanh.new_zeros(())
    return tanh, largest.clamp_min(TINY)
