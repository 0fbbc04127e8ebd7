"""From a packed weight to the block of bytes that the kernels read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from qcore.tensor.encoded import largest_code, offset_and_step
from qcore.tensor.integer import affine_scale, symmetric_scale
from qcore_backend_cpu.layout import Input
from qcore_backend_cpu.native import chosen_isa, load

if TYPE_CHECKING:
    from qcore.backends import KernelRequest
    from qcore.tensor import ActivationScheme, QTensor

__all__ = ["columns_refusal", "fits_32_bits", "prepare_block"]

_LARGEST_SUM = (1 << 31) - 1
_LARGEST_CODED = 255
_HUGE_PAGE = 1 << 21


def prepare_block(
    request: KernelRequest,
    weight: QTensor,
    bias: Tensor | None,
    columns: Tensor | None = None,
    *,
    depthwise: bool = False,
) -> Tensor:
    """Return the prepared weight: uint8 (nbytes,), in the layout of this machine, never to be stored.

    Args:
        request: what the layer is.
        weight: its weight, or one group of a convolution's.
        bias: (rows,) or None.
        columns: int32 (cols,), the order in which the kernel takes the weight's columns; None: as they come.
        depthwise: whether each row is a channel's own kernel, in the layout of src/depthwise.hpp.
    """
    native, _ = load()
    group = weight.group_size if weight.scale.shape[1] > 1 else None
    wide = group is None and not fits_32_bits(request, weight)
    prepared = native.Preparation(weight.cols, group or 0, wide, False)
    if depthwise:
        prepared.depthwise()
    kept = _add_weight(prepared, weight, bias, columns)
    prepared.activation(*_activation(request))
    numbers = _columns(request)
    if numbers is not None:
        prepared.columns(numbers.data_ptr())
    block = _memory(prepared.plan(chosen_isa()))
    prepared.fill(block.data_ptr())
    del kept, numbers  # until here the kernels read its memory
    return block


def _memory(nbytes: int) -> Tensor:
    """Return uint8 (nbytes,); a large one on huge pages where the system has them."""
    if nbytes < _HUGE_PAGE:
        return torch.empty(nbytes, dtype=torch.uint8, device="cpu")
    whole = torch.empty(nbytes + 2 * _HUGE_PAGE, dtype=torch.uint8, device="cpu")
    start = -whole.data_ptr() % _HUGE_PAGE
    native, _ = load()
    native.advise(whole.data_ptr() + start, -(-nbytes // _HUGE_PAGE) * _HUGE_PAGE)
    return whole[start : start + nbytes]


def fits_32_bits(request: KernelRequest, weight: QTensor) -> bool:
    """Return whether no integer sum of the layer needs more than 32 bits."""
    return weight.cols * largest_input(request) * _largest_weight(weight) <= _LARGEST_SUM


def largest_input(request: KernelRequest) -> int:
    """Return the largest magnitude of an activation's code less its zero point."""
    return _LARGEST_CODED if request.activation is None else request.activation.largest


def _largest_weight(weight: QTensor) -> int:
    return max(largest_code(weight.encoding, block.bits) for block in weight.blocks)


def _add_weight(prepared: Any, weight: QTensor, bias: Tensor | None, columns: Tensor | None) -> list[Tensor]:
    """Hand over addresses; return the tensors that must live until the block is filled."""
    kept: list[Tensor] = []

    def address(tensor: Tensor | None, dtype: torch.dtype) -> int:
        if tensor is None:
            return 0
        kept.append(tensor.detach().to("cpu", dtype).contiguous())
        return kept[-1].data_ptr()

    for block in weight.blocks:
        numbers = offset_and_step(weight.encoding, block.bits)
        trits, (rows, nbytes) = block.codec == "trit5@1", block.data.shape
        prepared.add(block.bits, trits, *numbers, address(block.data, torch.uint8), rows, nbytes)
    scale, zero = weight.scale, weight.zero_point
    if zero is not None:
        scale, zero = torch.broadcast_tensors(scale, zero)  # type: ignore[no-untyped-call]
    prepared.scales(address(scale, torch.float32), address(zero, torch.uint8), scale.shape[0] > 1)
    order = address(weight.row_order, torch.int32)
    prepared.rows(address(bias, torch.float32), order, address(columns, torch.int32))
    return kept


def _activation(request: KernelRequest) -> tuple[int, int, bool, float, float, float, float]:
    scheme = request.activation
    if scheme is None:
        return (Input.CODED if request.coded_input else Input.REAL, 8, True, 0.0, 0.0, 0.0, 0.0)
    if scheme.columns is not None:
        return (Input.COLUMNS, scheme.bits, scheme.symmetric, 0.0, float(scheme.columns.scale), 0.0, 0.0)
    if not scheme.is_static:
        return (Input.DYNAMIC, scheme.bits, scheme.symmetric, scheme.floor, 0.0, 0.0, 0.0)
    bits, symmetric, scale, inverse, zero = static_numbers(scheme)
    return (Input.FIXED, bits, symmetric, 0.0, scale, inverse, zero)


def _columns(request: KernelRequest) -> Tensor | None:
    """Return inverses, largest codes and steps of the input's columns, float32 (3, cols), if they differ."""
    columns = None if request.activation is None else request.activation.columns
    if columns is None:
        return None
    return torch.cat([columns.inverse, columns.largest, columns.step]).to("cpu", torch.float32).contiguous()


def columns_refusal(request: KernelRequest) -> str | None:
    """Return why an input whose columns differ cannot be coded here, or None."""
    scheme = request.activation
    if scheme is None or scheme.columns is None:
        return None
    largest, step = scheme.columns.largest, scheme.columns.step
    if request.op != "linear" or largest.shape[1] != request.weight_shape[1]:
        return f"an input with {largest.shape[1]} columns that differ, for a {request.op} of {request.weight_shape}"
    if scheme.bits > 8 and request.scales == "group":
        return "inputs of 16 bits with scales for groups of columns"
    whole = bool(((largest == largest.round()) & (step == step.round())).all())
    if not whole or not bool(((largest >= 0) & (step >= 1) & (largest * step <= scheme.largest)).all()):
        return f"columns whose codes leave their grid of {scheme.bits} bits"
    return None


def static_numbers(scheme: ActivationScheme) -> tuple[int, bool, float, float, float]:
    """Return bits, whether symmetric, scale, inverse and zero point of a static range."""
    assert scheme.low is not None
    assert scheme.high is not None
    scale, inverse, zero = _fixed(scheme, scheme.low, scheme.high)
    return (scheme.bits, scheme.symmetric, float(scale), float(inverse), float(zero))


def _fixed(scheme: ActivationScheme, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if scheme.symmetric:
        return (*symmetric_scale(high, scheme.bits), torch.zeros((), dtype=torch.float32, device="cpu"))
    return affine_scale(low, high, scheme.bits)
