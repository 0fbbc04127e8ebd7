"""``bitnet/binary``: the 1-bit weights of the original BitNet."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from qcore.tensor import Encoded
from qcore_bitnet.config import BinaryConfig
from qcore_bitnet.weights import WeightQuantizer, fused_mean

if TYPE_CHECKING:
    from torch import Tensor

    from qcore.backends import TrainingKernels
    from qcore.quantizers import QuantizerConfig

__all__ = ["Binary"]


class Binary(WeightQuantizer):
    """Weights of 1 bit, around their mean.

    The order of the operations, in float32::

        alpha = mean(W)                            # of the tensor, the row or the group; summed in float64
        beta  = mean|W|                            # of W itself, not of W - alpha
        code  = +1 where W > alpha, else -1
        Q(W)  = code * beta

    Gradient: ``dL/dW = dL/dQ(W)``, none to alpha and beta. A slice of zeros gives ``beta = 0`` and stays zero.
    Stored as ``packn@1`` with 1 bit.

    Source: Wang et al. 2023, arXiv:2310.11453, equations 1-3.
    """

    Config: ClassVar[type[QuantizerConfig]] = BinaryConfig
    config: BinaryConfig

    def bits(self) -> Tensor:
        """Return 1, float32 ()."""
        return torch.tensor(1.0)

    def _encode_rows(self, rows: Tensor, x: Tensor) -> Encoded:
        alpha = self.slice_mean(rows)
        codes = torch.where(rows > self.spread(alpha, rows), 1.0, -1.0)
        beta = self.slice_mean(rows, magnitude=True)
        return Encoded(codes, beta, x.shape, x.dtype, "odd", 1, group_size=self.config.group_size)

    def _fused_slices(self, slices: Tensor, kernels: TrainingKernels) -> Tensor | None:
        alpha = fused_mean(slices, kernels)
        return kernels.round_to_sign(slices, fused_mean(slices, kernels, magnitude=True), alpha)
