"""Packed linear layers: the calls that a layer makes."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from qcore.backends import KernelRequest, is_recorded
from qcore.errors import UsageError
from qcore.tensor import ActivationScheme, Encoded, QTensor
from qcore.tensor.encoded import offset_and_step
from qcore.tensor.layers import linear
from qcore_backend_cuda.config import Config
from qcore_backend_cuda.launch import Codes
from qcore_backend_cuda.ops import linear_op, scheme_facts
from qcore_backend_cuda.run import quantize, run_float, run_fused, run_integer, static_numbers
from qcore_backend_cuda.tune import config_for, tune
from qcore_backend_cuda.weights import PackedWeight

__all__ = [
    "Call",
    "Input",
    "check_input",
    "coded",
    "coded_linear_call",
    "float_linear_call",
    "linear_call",
    "op_arguments",
]

Input = Tensor | Encoded
Call = Callable[[Input], Tensor]


def linear_call(request: KernelRequest, weight: PackedWeight) -> Call:
    """Return what computes an integer layer on float inputs (..., features)."""
    scheme = request.activation
    assert scheme is not None
    fixed = static_numbers(scheme, weight.data.device) if scheme.is_static else None
    arguments = op_arguments(request, weight)

    def call(x: Input) -> Tensor:
        given = check_input(x, weight)
        if is_recorded() or type(given) not in (Tensor, torch.nn.Parameter):
            seen: Tensor = linear_op(given, *arguments)
            return seen
        return integer_rows(given, weight, scheme, fixed)

    return call


def integer_rows(
    x: Tensor, weight: PackedWeight, scheme: ActivationScheme, fixed: Tensor | None, config: Config | None = None
) -> Tensor:
    """Return the outputs of an integer layer on float ``x`` (..., features)."""
    rows = _rows(x, x.dtype if x.dtype is not torch.float64 else torch.float32)

    def run(chosen: Config) -> Tensor:
        if chosen.fused:
            return run_fused(rows, scheme, fixed, weight, chosen).to(x.dtype)
        return run_integer(quantize(rows, scheme, fixed, weight.stride), weight, x.dtype, chosen)

    y = run(config or tune(weight, len(rows), x.dtype, run))
    return y.reshape(*x.shape[:-1], weight.rows)


def float_linear_call(request: KernelRequest, packed: QTensor, bias: Tensor | None, weight: PackedWeight) -> Call:
    """Return what computes a weight-only layer: float32 sums of products with exact codes."""
    arguments = op_arguments(request, weight)

    def call(x: Input) -> Tensor:
        given = check_input(x, weight)
        if given.dtype is torch.float64 or given.requires_grad and torch.is_grad_enabled():
            # The input's gradient, or sums as wide as the input, are the reference's to give.
            return linear(given, packed.unpack(), bias)
        if is_recorded() or type(given) not in (Tensor, torch.nn.Parameter):
            seen: Tensor = linear_op(given, *arguments)
            return seen
        return float_rows(given, weight)

    return call


def float_rows(x: Tensor, weight: PackedWeight, config: Config | None = None) -> Tensor:
    """Return the outputs of a weight-only layer on ``x`` (..., features)."""
    rows = _rows(x, x.dtype)

    def run(chosen: Config) -> Tensor:
        return run_float(rows, weight, chosen)

    y = run(config or tune(weight, len(rows), x.dtype, run))
    return y.reshape(*x.shape[:-1], weight.rows)


def coded_linear_call(request: KernelRequest, weight: PackedWeight) -> Call:
    """Return what computes an integer layer on inputs that are coded already."""

    def call(x: Input) -> Tensor:
        if not isinstance(x, Encoded):
            raise UsageError(f"this layer takes coded inputs, not {type(x).__name__}")
        codes = coded(x, weight.cols, weight.stride)
        y = run_integer(codes, weight, torch.float32, config_for(weight, len(codes.codes), torch.float32))
        return y.reshape(*x.shape[:-1], weight.rows).to(x.dtype)

    return call


def coded(x: Encoded, cols: int, stride: int) -> Codes:
    """Return coded inputs as int8 rows.

    Raises:
        UsageError: they do not fit, or have more than one scale a row.
    """
    if x.codes.dim() != 2 or x.codes.shape[1] != cols:
        raise UsageError(f"this layer takes codes (rows, {cols}), not {tuple(x.codes.shape)}")
    rows = len(x.codes)
    if x.scale.shape[1] != 1 or x.scale.shape[0] not in (1, rows):
        raise UsageError(f"coded inputs have one scale a row, or one, not {tuple(x.scale.shape)}")
    bits = x.bits if isinstance(x.bits, int) else int(x.bits.max()) if x.bits.numel() else 1
    step, offset = offset_and_step(x.encoding, bits)
    step, less = (1, 0) if bits < 8 or x.encoding in {"int", "ternary", "symmetric"} else (step, step * 128 + offset)
    codes = torch.zeros((rows, stride), dtype=torch.int8, device=x.codes.device)
    codes[:, :cols] = ((x.codes.float() - less) / step).to(torch.int8)
    zero = torch.zeros_like(x.scale) if x.zero_point is None else x.zero_point.float()
    moved = (less - zero).expand(rows, 1).reshape(rows).to(torch.int32).contiguous()
    scale = x.scale.float().expand(rows, 1).reshape(rows).contiguous()
    return Codes(codes, scale, codes.sum(dim=1, dtype=torch.int32), moved, step, True)


def check_input(x: Input, weight: PackedWeight) -> Tensor:
    """Return ``x`` if a layer can take it.

    Raises:
        UsageError: it is no float tensor of as many features on the weight's device.
    """
    where = weight.data.device
    if not isinstance(x, Tensor) or not x.dtype.is_floating_point or x.device != where:
        what = f"a {x.dtype} tensor on {x.device}" if isinstance(x, Tensor) else type(x).__name__
        raise UsageError(f"this layer takes float tensors on {where}, not {what}")
    if x.dim() == 0 or x.shape[-1] != weight.cols:
        raise UsageError(f"this layer takes (..., {weight.cols}), not {tuple(x.shape)}")
    return x


def _rows(x: Tensor, dtype: torch.dtype) -> Tensor:
    rows = x.detach().reshape(math.prod(x.shape[:-1]), x.shape[-1]).to(dtype).resolve_neg()
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()


def op_arguments(request: KernelRequest, weight: PackedWeight) -> tuple[list[Tensor], list[int], list[float]]:
    """Return what :data:`qcore_backend_cuda.ops.linear_op` takes after the input."""
    scheme = request.activation
    fixed = static_numbers(scheme, weight.data.device) if scheme is not None and scheme.is_static else None
    held = weight.tensors() if fixed is None else [*weight.tensors(), fixed]
    return held, [*scheme_facts(scheme), *weight.facts()], [0.0 if scheme is None else scheme.floor]
