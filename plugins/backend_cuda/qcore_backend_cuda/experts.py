"""Experts that are packed linear layers: all of them in one launch.

The experts' weights are stacked as blocks of rows, which may have different widths; every expert sees every row, and
what has no weight is left out of the sum. No row waits to be sorted, and nothing waits for the GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from qcore.backends import Kernel
from qcore.errors import UsageError
from qcore.tensor import ActivationScheme
from qcore_backend_cuda.kernel import CudaKernel
from qcore_backend_cuda.linear import check_input, integer_rows
from qcore_backend_cuda.stack import stack

__all__ = ["experts_call"]

_MOST_BLOCKS = 16


def experts_call(kernels: Sequence[Kernel]) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return what maps ``x`` (rows, features) and weights (rows, experts) to the experts' weighted sum, or None.

    It raises a UsageError where they do not fit.
    """
    own = [kernel for kernel in kernels if isinstance(kernel, CudaKernel)]
    schemes = [kernel.request.activation for kernel in own if kernel.request.op == "linear"]
    found = [scheme for scheme in schemes if scheme is not None and not scheme.is_static]
    if not found or len(found) < len(kernels) or not all(_agree(a, b) for a, b in pairwise(found)):
        return None
    stacked = stack([kernel.weight for kernel in own])
    if stacked is None or len(stacked.widths) > _MOST_BLOCKS:
        return None
    outputs, experts = own[0].weight.rows, len(own)

    def call(x: Tensor, weights: Tensor) -> Tensor:
        given = check_input(x, stacked)
        _check(x, weights, experts)
        y = integer_rows(given.float(), stacked, found[0], None).reshape(len(x), experts, outputs)
        shares = weights.detach().float().unsqueeze(-1)
        # An expert without a weight for a row may have given NaN there.
        return torch.where(shares == 0, 0.0, shares * y).sum(dim=1).to(x.dtype)

    return call


def _agree(a: ActivationScheme, b: ActivationScheme) -> bool:
    return (a.bits, a.symmetric, a.per_token, a.floor) == (b.bits, b.symmetric, b.per_token, b.floor)


def _check(x: Tensor, weights: Tensor, experts: int) -> None:
    if x.dim() != 2 or weights.shape != (x.shape[0], experts):
        what = f"{tuple(x.shape)} and {tuple(weights.shape)}"
        raise UsageError(f"{experts} experts take (rows, features) and weights (rows, {experts}), not {what}")
    if not weights.dtype.is_floating_point or weights.device != x.device:
        raise UsageError(f"the experts' weights are floats on {x.device}, not {weights.dtype} on {weights.device}")
