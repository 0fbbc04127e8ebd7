"""Experts that are packed linear layers: all of them in one call, on grouped rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qcore.backends import Kernel, KernelRequest
from qcore_backend_cpu.kernel import CpuKernel
from qcore_backend_cpu.linear import check_input
from qcore_backend_cpu.ops import moe_linear_op, run_moe_linear

__all__ = ["experts_call"]


def experts_call(kernels: Sequence[Kernel]) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return what maps ``x`` (rows, features) and weights (rows, experts) to the experts' weighted sum, or None."""
    own = [kernel for kernel in kernels if isinstance(kernel, CpuKernel) and _is_served(kernel.request)]
    if len(own) < len(kernels) or not own:
        return None
    blocks = [kernel.blocks[0] for kernel in own]
    rows, cols = own[0].request.weight_shape

    def call(x: Tensor, weights: Tensor) -> Tensor:
        given = check_input(x, cols)
        if torch.compiler.is_compiling() or type(given) not in (Tensor, torch.nn.Parameter):
            compiled: Tensor = moe_linear_op(given, weights, blocks, rows)
            return compiled
        return run_moe_linear(given, weights, blocks, rows)

    return call


def _is_served(request: KernelRequest) -> bool:
    return request.op == "linear" and request.activation is not None
