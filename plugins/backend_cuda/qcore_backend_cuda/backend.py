"""``backend_cuda/cuda``: packed layers by Triton kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from qcore.backends import Backend, Kernel, KernelRequest, Probe, TrainingKernels
from qcore.tensor import QTensor
from qcore.tensor.encoded import largest_code
from qcore_backend_cuda.layout import ENCODINGS
from qcore_backend_cuda.machine import CAPABILITY, capability, interpreted, look

if TYPE_CHECKING:
    from qcore.backends.plan import Program
    from qcore.backends.plan.base import Compiled

__all__ = ["CudaBackend"]

_LARGEST_SUM = (1 << 31) - 1
_LARGEST_CODED = 255
_MOST_GROUPS = 16
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


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
        if request.encoding not in ENCODINGS:
            return f"codes of encoding {request.encoding!r}, which this version does not know"
        if device == "cuda" and capability(request.device) < CAPABILITY:
            return f"compute capability {capability(request.device)}: {CAPABILITY} is needed"
        if request.activation is not None and request.activation.columns is not None:
            return "inputs with a width for each column"
        if request.op == "conv2d" and not request.integer:
            return None if request.scales != "group" else "no convolution with scales for groups of columns"
        if request.conv is not None and not 1 <= request.conv.groups <= _MOST_GROUPS:
            return f"{request.conv.groups} groups of channels: up to {_MOST_GROUPS} are served"
        if request.conv is not None and request.weight_shape[0] % request.conv.groups:
            return f"{request.weight_shape[0]} output channels in {request.conv.groups} groups"
        if not math.prod(request.weight_shape):
            return "a weight without elements"
        if request.scales == "group" and request.integer:
            return "integer activations with scales for groups of columns"
        if request.scales == "group" and (request.group_size or 0) % 32:
            return f"groups of {request.group_size} columns: multiples of 32 are served"
        if not request.integer and request.dtype not in _DTYPES:
            return f"weight-only layers in {request.dtype}: its float sums are float32"
        if request.integer and _largest_sum(request) > _LARGEST_SUM:
            return f"{math.prod(request.weight_shape[1:])} terms an output: their sum of products may not fit 32 bits"
        return None

    def prepare(self, request: KernelRequest, weight: QTensor, bias: Tensor | None) -> Kernel:
        """Repack the weight into the layout of the kernels, some rows at a time."""
        from qcore_backend_cuda.prepare import prepare

        return prepare(request, weight, bias)

    def compile(self, program: Program) -> Compiled | str:
        """Return what runs all steps as one CUDA graph, or why there is none."""
        from qcore_backend_cuda.graph import compile_graph

        return compile_graph(program)

    def experts(self, kernels: Sequence[Kernel]) -> Callable[[Tensor, Tensor], Tensor] | None:
        """Return what runs integer linear layers of one shape in one launch."""
        from qcore_backend_cuda.experts import experts_call

        return experts_call(kernels)

    def training_kernels(self, device: torch.device) -> TrainingKernels | None:
        """Return the fused fake quantization, on GPUs."""
        if device.type != ("cpu" if interpreted() else "cuda"):
            return None
        from qcore_backend_cuda.training import CudaTrainingKernels

        return CudaTrainingKernels()


def _largest_sum(request: KernelRequest) -> int:
    scheme = request.activation
    largest = _LARGEST_CODED
    if scheme is not None:
        largest = (1 << (scheme.bits - 1)) - 1 if scheme.symmetric else (1 << scheme.bits) - 1
    terms = math.prod(request.weight_shape[1:])
    return terms * largest * max(largest_code(request.encoding, bits) for bits in request.bits)
