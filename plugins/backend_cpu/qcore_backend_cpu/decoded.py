"""Convolutions of float activations: torch's own, on a weight that is decoded once."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from qcore.backends import Kernel, KernelRequest
from qcore.tensor import Encoded, QTensor

__all__ = ["decoded_conv2d", "is_decoded"]


def is_decoded(request: KernelRequest) -> bool:
    """Return whether ``request`` is a convolution whose weight alone is quantized.

    Such a convolution has float sums, and so many of them a weight that fewer bytes save no time. What can be saved is
    decoding at each call.
    """
    return request.conv is not None and not request.integer


def decoded_conv2d(request: KernelRequest, weight: QTensor, bias: Tensor | None) -> Kernel:
    """Return what computes as the reference does, bit for bit, with the memory of a float weight."""
    assert request.conv is not None
    dense, walk = weight.dequantize(), request.conv

    def call(x: Tensor | Encoded) -> Tensor:
        assert isinstance(x, Tensor)
        return F.conv2d(x, dense.to(x.dtype), None if bias is None else bias.to(x.dtype), *walk)

    nbytes = dense.numel() * dense.element_size()
    return Kernel("conv2d, weight decoded once, float sums by torch", call, nbytes, 0.0)
