"""``backend_cuda/cuda``: packed layers by Triton kernels."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from qcore.backends import Backend, Kernel, KernelRequest, Probe, TrainingKernels
from qcore.backends.plan.base import sum_bound
from qcore.tensor import QTensor
from qcore.tensor.encoded import largest_code
from qcore_backend_cuda.machine import CAPABILITY, capability, interpreted, look

__all__ = ["CudaBackend"]

_LARGEST_SUM = (1 << 31) - 1
_LARGEST_CODED = 255
_ROUNDINGS = {torch.float32: 0.0, torch.float16: 2.0**-8, torch.bfloat16: 2.0**-5}


class CudaBackend(Backend):
    """Runs packed layers on NVIDIA GPUs, equal to the reference bit for bit where the arithmetic is integer."""

    name: ClassVar[str] = "cuda"
    priority: ClassVar[int] = 90  # below the CPU's: on a machine without a GPU it has nothing to say

    def probe(self) -> Probe:
        """Say whether there are Triton and a GPU, without initialising CUDA."""
        return look()

    def reject(self, request: KernelRequest) -> str | None:
        """Return why ``request`` cannot be served, or None."""
        device = "cpu" if interpreted() else "cuda"
        if request.device.type != device:
            return f"the weight is on {request.device}, and it runs on {device}"
        if device == "cuda" and capability(request.device) < CAPABILITY:
            return f"compute capability {capability(request.device)}: {CAPABILITY} is needed"
        if request.op == "conv2d":
            return "no convolution yet"
        if not math.prod(request.weight_shape):
            return "a weight without elements"
        if request.scales == "group" and request.integer:
            return "integer activations with scales for groups of columns"
        if request.scales == "group" and (request.group_size or 0) % 32:
            return f"groups of {request.group_size} columns: multiples of 32 are served"
        if not request.integer and request.dtype not in _ROUNDINGS:
            return f"weight-only layers in {request.dtype}: its float sums are float32"
        if request.integer and _largest_sum(request) > _LARGEST_SUM:
            return f"{request.weight_shape[1]} columns: their sum of products may not fit 32 bits"
        return None

    def prepare(self, request: KernelRequest, weight: QTensor, bias: Tensor | None) -> Kernel:
        """Repack the weight into the layout of the kernels, some rows at a time."""
        from qcore_backend_cuda.kernel import CudaKernel
        from qcore_backend_cuda.linear import coded_linear_call, float_linear_call, linear_call
        from qcore_backend_cuda.weights import PackedWeight

        packed = PackedWeight.pack(weight, bias, integer=request.integer)
        bound = 0.0
        if not request.integer:
            call, bound = float_linear_call(request, weight, bias, packed), _bound(request)
        elif request.coded_input:
            call = coded_linear_call(request, packed)
        else:
            call = linear_call(request, packed)
        name = f"{request.op} triton, {'integer' if request.integer else 'float'} sums"
        return CudaKernel(name, call, packed.nbytes, bound, request=request, weight=packed)

    def training_kernels(self, device: torch.device) -> TrainingKernels | None:
        """Return the fused fake quantization, on GPUs."""
        if device.type != ("cpu" if interpreted() else "cuda"):
            return None
        from qcore_backend_cuda.training import CudaTrainingKernels

        return CudaTrainingKernels()


def _bound(request: KernelRequest) -> float:
    """Return the bound of float sums; in 16 bits the reference's own rounding of its weights and outputs prevails."""
    return sum_bound(request.weight_shape[1]) + _ROUNDINGS[request.dtype]


def _largest_sum(request: KernelRequest) -> int:
    scheme = request.activation
    largest = _LARGEST_CODED
    if scheme is not None:
        largest = (1 << (scheme.bits - 1)) - 1 if scheme.symmetric else (1 << scheme.bits) - 1
    return request.weight_shape[1] * largest * max(largest_code(request.encoding, bits) for bits in request.bits)
