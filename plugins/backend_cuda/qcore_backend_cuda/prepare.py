"""From a packed layer to a kernel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from qcore.backends import KernelRequest
from qcore.backends.plan.base import sum_bound
from qcore.tensor import QTensor
from qcore_backend_cuda.conv2d import conv2d_call, conv2d_weights, decoded_conv2d_call
from qcore_backend_cuda.kernel import CudaKernel
from qcore_backend_cuda.linear import coded_linear_call, float_linear_call, linear_call
from qcore_backend_cuda.weights import PackedWeight

__all__ = ["prepare"]

_ROUNDINGS = {torch.float32: 0.0, torch.float16: 2.0**-8, torch.bfloat16: 2.0**-5}
"""In 16 bits the reference's own rounding of its weights and outputs prevails."""
_TF32 = 2.0**-8
"""Torch convolves float32 on tensor cores, unless told otherwise, and may do so in another way at another call."""


def prepare(request: KernelRequest, weight: QTensor, bias: Tensor | None) -> CudaKernel:
    """Return the kernel of a request that the backend does not reject."""
    name, bound = f"{request.op} triton, {'integer' if request.integer else 'float'} sums", 0.0
    if request.op == "conv2d" and not request.integer:
        call, nbytes = decoded_conv2d_call(request, weight, bias)
        bound = sum_bound(math.prod(request.weight_shape[1:])) + _ROUNDINGS[request.dtype] + _TF32
        name = "conv2d, weight decoded once, float sums by torch"
        return CudaKernel(name, call, nbytes, bound, request=request, weights=())
    if request.op == "conv2d":
        weights = conv2d_weights(request, weight, bias)
        call = conv2d_call(request, weight, bias, weights)
    else:
        weights = (PackedWeight.pack(weight, bias, integer=request.integer),)
        if not request.integer:
            call = float_linear_call(request, weight, bias, weights[0])
            bound = sum_bound(request.weight_shape[1]) + _ROUNDINGS[request.dtype]
        else:
            call = coded_linear_call(request, weights[0]) if request.coded_input else linear_call(request, weights[0])
    nbytes = sum(packed.nbytes for packed in weights)
    return CudaKernel(name, call, nbytes, bound, request=request, weights=weights)
