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
        weight: the prepared weight.
    """

    request: KernelRequest = field(kw_only=True)
    weight: PackedWeight = field(kw_only=True)
