"""CpuKernel: a prepared layer together with its blocks, for what runs several layers in one call."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from qcore.backends import Kernel, KernelRequest

__all__ = ["CpuKernel"]


@dataclass(frozen=True, eq=False)
class CpuKernel(Kernel):
    """A kernel of this backend.

    Attributes:
        request: the layer.
        blocks: the prepared weight, uint8 (nbytes,): one, or one for each group of a convolution.
    """

    request: KernelRequest = field(kw_only=True)
    blocks: tuple[Tensor, ...] = field(kw_only=True)
