"""CudaKernel: a prepared layer together with its weight, for what runs several layers in one call."""

from __future__ import annotations

from dataclasses import dataclass, field

from qcore.backends import Kernel, KernelRequest
from qcore_backend_cuda.weights import PackedWeight

__all__ = ["CudaKernel"]


@dataclass(frozen=True, eq=False)
class CudaKernel(Kernel):
    """A kernel of this backend.

    Attributes:
        request: the layer.
        weights: the prepared weight: one, or one for each group of a convolution.
    """

    request: KernelRequest = field(kw_only=True)
    weights: tuple[PackedWeight, ...] = field(kw_only=True)

    @property
    def weight(self) -> PackedWeight:
        """The first weight."""
        return self.weights[0]
