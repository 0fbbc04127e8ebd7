"""The differentiable operation of a resident layer: its backward pass consumes the weight's gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, distributed

from qcore.errors import UsageError
from qcore_true4bit.resident.codes import LARGEST, unpack_codes
from qcore_true4bit.resident.update import chunks_of, update

if TYPE_CHECKING:
    from qcore_true4bit.resident.layers import ResidentLayer

__all__ = ["resident_operation"]


def resident_operation(layer: ResidentLayer, x: Tensor) -> Tensor:
    """Return the output of ``layer`` for ``x``, differentiable in ``x``, scale and bias; see :class:`ResidentLayer`.

    ::

        dL/dlog_gain = sum over the row of dL/dw * code * scale / sqrt(cols * 7)

    which is LSQ's gradient of the scale with its factor, times the scale since the logarithm is what is trained.

    Source: Esser et al. 2019, arXiv:1902.08153, sections 2.1 and 2.2.
    """
    if not torch.is_grad_enabled():
        return _output(layer, x, layer.bias)
    # Without it a layer whose input and parameters need no gradient would have no backward pass.
    anchor = torch.empty(0, device=x.device, requires_grad=layer.training)
    return cast(Tensor, _Resident.apply(x, layer.log_gain, layer.bias, anchor, layer))  # type: ignore[no-untyped-call]


class _Resident(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, log_gain: Tensor, bias: Tensor | None, anchor: Tensor, layer: ResidentLayer
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.layer, ctx.version, ctx.trains = layer, layer.version, layer.training and layer.lr != 0
        return _output(layer, x, bias)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        (x,), layer = ctx.saved_tensors, cast("ResidentLayer", ctx.layer)
        gradient = given[0].to(x.dtype)  # of another type where autocast chose the output's
        if ctx.version != layer.version:
            raise UsageError(
                f"the codes of {layer.tensor_name} changed between its forward and its backward pass",
                "a resident layer is used once in a forward pass, and its backward pass is run once",
            )
        wants_input, wants_scale, wants_bias = ctx.needs_input_grad[:3]
        dx = layer.input_gradient(gradient, x, layer.weight_values(x.dtype)) if wants_input else None
        if not (wants_scale or wants_bias or ctx.trains):
            return dx, None, None, None, None
        dw, db = layer.weight_gradient(gradient, x, bias=wants_bias)
        matrix = dw.flatten(1).to(torch.float32)
        dscale = _scale_gradient(layer, matrix) if wants_scale else None
        if ctx.trains:
            layer.version += 1
            update(layer, _averaged(matrix))
        return dx, dscale, db, None, None


def _output(layer: ResidentLayer, x: Tensor, bias: Tensor | None) -> Tensor:
    return layer.apply_weight(x, layer.weight_values(x.dtype), None if bias is None else bias.to(x.dtype))


def _scale_gradient(layer: ResidentLayer, gradient: Tensor) -> Tensor:
    """Return the gradient of ``log_gain``, float32 (rows,)."""
    sums = torch.empty_like(layer.first_scale)
    for rows in chunks_of(gradient):
        torch.linalg.vecdot(gradient[rows], unpack_codes(layer.codes[rows], layer.cols), out=sums[rows])
    return sums.mul_(layer.scale).div_((layer.cols * LARGEST) ** 0.5)


def _averaged(gradient: Tensor) -> Tensor:
    """Return the mean of ``gradient`` over all ranks; ``gradient`` itself without torch.distributed."""
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        gradient = gradient.contiguous()
        distributed.all_reduce(gradient)
        gradient /= distributed.get_world_size()
    return gradient
