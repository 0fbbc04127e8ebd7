"""``bitnet/ternary``: the weights of BitNet b1.58."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from qcore.backends import Grid
from qcore.tensor import Encoded
from qcore_bitnet.config import TernaryConfig
from qcore_bitnet.weights import WeightQuantizer, as_rows, fused_mean

if TYPE_CHECKING:
    from torch import Tensor

    from qcore.backends import TrainingKernels
    from qcore.quantizers import QuantizerConfig

__all__ = ["MIN_SCALE", "Ternary"]

MIN_SCALE = 1e-5
"""Lower limit of a scale, as in the authors' code; the paper adds a small epsilon instead."""


class Ternary(WeightQuantizer):
    """Weights -1, 0 and +1, times their mean magnitude.

    The order of the operations, in float32::

        gamma = max(mean|W|, 1e-5)                 # of the tensor, the row or the group; summed in float64
        code  = clamp(round(W / gamma), -1, 1)     # ties to even, so |W| = gamma / 2 gives 0
        Q(W)  = code * gamma

    Gradient: ``dL/dW = dL/dQ(W)``, none to gamma; with ``mask``, times ``1[|W| <= 1.5 gamma]``.
    Stored as ``trit5@1``: 1.6 bits a weight, rows rounded up to a byte, and a float32 a scale.

    Source: Ma et al. 2024, arXiv:2402.17764, equations 1-3; "The Era of 1-bit LLMs: Training Tips, Code and FAQ".
    """

    Config: ClassVar[type[QuantizerConfig]] = TernaryConfig
    config: TernaryConfig

    def bits(self) -> Tensor:
        """Return 1.6, what a weight takes in ``trit5@1``, float32 ()."""
        return torch.tensor(1.6)

    def gradient_mask(self, x: Tensor) -> Tensor | None:
        """Return where the gradient passes: everywhere, or where ``|W| <= 1.5 gamma``."""
        if not self.config.mask:
            return None
        rows = as_rows(x)
        inside = rows.abs() <= self.spread(1.5 * self._gamma(rows), rows)
        return inside.reshape(x.shape).to(x.dtype)

    def _encode_rows(self, rows: Tensor, x: Tensor) -> Encoded:
        gamma = self._gamma(rows)
        codes = torch.round(rows / self.spread(gamma, rows)).clamp(-1.0, 1.0) + 0.0  # makes -0.0 a plain 0.0
        return Encoded(codes, gamma, x.shape, x.dtype, "ternary", 2, group_size=self.config.group_size)

    def _fused_slices(self, slices: Tensor, kernels: TrainingKernels) -> Tensor | None:
        gamma = fused_mean(slices, kernels, magnitude=True).clamp_min_(MIN_SCALE)
        # A zero point of 0 makes -0.0 a plain 0.0.
        return kernels.round_to_grid(slices, Grid(gamma, -1.0, 1.0, zero_point=torch.zeros_like(gamma)))

    def _gamma(self, rows: Tensor) -> Tensor:
        return self.slice_mean(rows, magnitude=True).clamp_min(MIN_SCALE)
