"""Experts that are packed linear layers: all of them in one call, on grouped rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qcore.backends import Kernel, KernelRequest, is_recorded
from qcore.errors import UsageError
from qcore_backend_cpu.kernel import CpuKernel
from qcore_backend_cpu.linear import check_input
from qcore_backend_cpu.ops import moe_linear_op, run_moe_linear

__all__ = ["experts_call"]


def experts_call(kernels: Sequence[Kernel]) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return what maps ``x`` (rows, features) and weights (rows, experts) to the experts' weighted sum, or None.

    It raises a UsageError where they do not fit, or do not lie on the CPU.
    """
    own = [kernel for kernel in kernels if isinstance(kernel, CpuKernel) and _is_served(kernel.request)]
    if len(own) < len(kernels) or not own:
        return None
    blocks = [kernel.blocks[0] for kernel in own]
    rows, cols = own[0].request.weight_shape

    def call(x: Tensor, weights: Tensor) -> Tensor:
        given = check_input(x, cols)
        _check(given, weights, len(blocks))
        if is_recorded() or type(given) not in (Tensor, torch.nn.Parameter):
            compiled: Tensor = moe_linear_op(given, weights, blocks, rows)
            return compiled
        return run_moe_linear(given, weights, blocks, rows)

    return call


def _is_served(request: KernelRequest) -> bool:
    return request.op == "linear" and request.activation is not None


def _check(x: Tensor, weights: Tensor, experts: int) -> None:
    if x.dim() != 2 or weights.shape != (x.shape[0], experts):
        what = f"{tuple(x.shape)} and {tuple(weights.shape)}"
        raise UsageError(f"{experts} experts take (rows, features) and weights (rows, {experts}), not {what}")
    if not weights.dtype.is_floating_point or weights.device.type != "cpu":
        raise UsageError(f"the experts' weights are floats on the CPU, not {weights.dtype} on {weights.device}")
