"""Packed linear layers: the calls that a layer makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qcore.backends import is_recorded
from qcore.backends.memory import WATCHERS
from qcore.errors import UsageError
from qcore.tensor import Encoded, QTensor
from qcore.tensor.encoded import offset_and_step
from qcore.tensor.layers import linear
from qcore_backend_cpu.native import load
from qcore_backend_cpu.ops import linear_coded_op, linear_op, run_linear, run_linear_coded

if TYPE_CHECKING:
    from qcore.backends import KernelRequest

__all__ = ["Call", "Input", "byte_of", "check_input", "coded_linear_call", "linear_call", "real_linear_call"]

Input = Tensor | Encoded
Call = Callable[[Input], Tensor]


def linear_call(request: KernelRequest, block: Tensor) -> Call:
    """Return what computes a layer on float inputs (..., features)."""
    native, _ = load()
    run: Callable[..., None] = native.linear
    rows, cols, address = request.weight_shape[0], request.weight_shape[1], block.data_ptr()
    threads, float32, watched = torch.get_num_threads, torch.float32, torch.compiler.is_compiling
    tracing, modes, functions = WATCHERS

    def call(x: Input) -> Tensor:
        # The common case first, and by address: everything here counts at batch 1.
        if watched() or tracing() or modes() or functions():
            if is_recorded():
                seen: Tensor = linear_op(check_input(x, cols), block, rows)
                return seen
        elif type(x) is Tensor and x.dtype is float32 and x.is_contiguous() and x.is_cpu:
            shape = x.shape
            if len(shape) == 2 and shape[1] == cols:
                # Unlike torch.empty it heeds no default dtype or device; numbers are read faster than a tuple.
                y = x.new_empty(shape[0], rows)
                run(address, x.data_ptr(), shape[0], y.data_ptr(), threads())
                return y
        given = check_input(x, cols)
        general: Callable[..., Tensor] = run_linear if type(given) in (Tensor, torch.nn.Parameter) else linear_op
        return general(given, block, rows)

    return call


def real_linear_call(request: KernelRequest, weight: QTensor, block: Tensor, bias: Tensor | None) -> Call:
    """Return what computes a weight-only layer: float sums on dequantized weights."""
    fast = linear_call(request, block)

    def call(x: Input) -> Tensor:
        if isinstance(x, Tensor) and x.dtype is torch.float32 and not (x.requires_grad and torch.is_grad_enabled()):
            return fast(x)
        # The input's gradient, or sums as wide as the input, are the reference's to give.
        return linear(check_input(x, request.weight_shape[1]), weight.unpack(), bias)

    return call


def coded_linear_call(request: KernelRequest, block: Tensor) -> Call:
    """Return what computes an integer layer on inputs that are coded already."""
    rows, cols = request.weight_shape[0], request.weight_shape[1]

    def call(x: Input) -> Tensor:
        if not isinstance(x, Encoded):
            raise UsageError(f"this layer takes coded inputs, not {type(x).__name__}")
        parts, (step, less) = coded_parts(x, cols), byte_of(x)
        run: Callable[..., Tensor] = linear_coded_op if is_recorded() else run_linear_coded
        return run(*parts, block, rows, step, less).reshape(*x.shape[:-1], rows).to(x.dtype)

    return call


def check_input(x: Input, cols: int) -> Tensor:
    """Return ``x`` if a layer of ``cols`` features can take it.

    Raises:
        UsageError: it is no float tensor of that many features on the CPU.
    """
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point or x.device.type != "cpu":
        what = f"a {x.dtype} tensor on {x.device}" if isinstance(x, Tensor) else type(x).__name__
        raise UsageError(f"this layer takes float tensors on the CPU, not {what}")
    if x.dim() == 0 or x.shape[-1] != cols:
        raise UsageError(f"this layer takes (..., {cols}), not {tuple(x.shape)}")
    return x


def coded_parts(x: Encoded, cols: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return codes (rows, cols), scale and zero point, float32 and contiguous."""
    if x.codes.dim() != 2 or x.codes.shape[1] != cols:
        raise UsageError(f"this layer takes codes (rows, {cols}), not {tuple(x.codes.shape)}")
    if x.scale.shape[1] != 1 or x.scale.shape[0] not in (1, x.codes.shape[0]):
        raise UsageError(f"coded inputs have one scale a row, or one, not {tuple(x.scale.shape)}")
    return x.codes.float().contiguous(), *scales_of(x)


def scales_of(x: Encoded) -> tuple[Tensor, Tensor | None]:
    """Return scale and zero point of one shape, float32 and contiguous."""
    if x.zero_point is None:
        return x.scale.float().contiguous(), None
    scale, zero = torch.broadcast_tensors(x.scale, x.zero_point)  # type: ignore[no-untyped-call]
    return scale.float().contiguous(), zero.float().contiguous()


def byte_of(x: Encoded) -> tuple[int, int]:
    """Return ``(step, less)`` such that ``(code - less) / step`` fits a signed byte."""
    bits = x.bits if isinstance(x.bits, int) else int(x.bits.max()) if x.bits.numel() else 1
    step, offset = offset_and_step(x.encoding, bits)
    return (1, 0) if bits < 8 or x.encoding in {"int", "ternary", "symmetric"} else (step, step * 128 + offset)
