"""Gradients that look at the range: clipped straight-through, and a learned scale."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from qcore.backends.training import ChosenKernels, Grid
from qcore.errors import UsageError
from qcore.quantizers.base import check_finite

__all__ = ["learned_scale", "straight_through_inside"]


def straight_through_inside(
    x: Tensor, quantized: Tensor, low: Tensor, high: Tensor, kernels: ChosenKernels | None = None
) -> Tensor:
    """Return ``quantized`` exactly, with the gradient ``dL/dx = dL/dquantized * 1[low <= x <= high]``.

    The mask is found in the backward pass, so that ``x``, which other layers keep anyway, is all that is kept.

    Args:
        x: any shape; its elements in order fall into slices of equal length.
        quantized: what takes its place, shaped like ``x``.
        low: the range's lower end, taken in float32, one element a slice in their order, or one for all.
        high: the upper end, likewise, of as many elements.
        kernels: what may compute the gradient in one pass; None: torch does.

    Raises:
        UsageError: ``low`` and ``high`` differ in their number of elements, or ``x`` has no such number of slices.
    """
    count = low.numel()
    if high.numel() != count or (x.numel() % count if count else x.numel()):
        numbers = f"{count} and {high.numel()} elements for {x.numel()} values"
        raise UsageError(f"a range has one low and one high for each slice, not {numbers}")
    if not (x.requires_grad and torch.is_grad_enabled()):
        return quantized.detach()
    low, high = (end.detach().to(device=x.device, dtype=torch.float32) for end in (low, high))
    return cast(Tensor, _Inside.apply(x, quantized, low, high, kernels))  # type: ignore[no-untyped-call]


def learned_scale(
    x: Tensor,
    scale: Tensor,
    low: float,
    high: float,
    kernels: ChosenKernels | None = None,
    name: str = "tensor",
) -> Tensor:
    """Return ``x`` rounded to a learned scale; shape and dtype of ``x``, differentiable in ``x`` and ``scale``.

    In float32 and in this order, with ``v = x / scale``::

        Q(x)       = clamp(round(v), low, high) * scale                  # ties to even
        dL/dx      = dL/dQ * 1[low < v < high]
        dL/dscale  = sum over the slice of dL/dQ * t                     # the products float32, their sum float64
        t          = round(v) - v inside low < v < high, low where v <= low, high where v >= high

    The order of the terms in the sum is free. So backends agree on ``Q`` and ``dL/dx`` bit for bit, and on
    ``dL/dscale`` to the rounding of its float64 sum to float32: they differ by one step of float32 at most, or by
    ``n * 2**-52`` times the sum of the terms' magnitudes, where terms cancel.

    Args:
        x: any shape; its elements in order fall into slices of equal length, such as rows.
        scale: above 0, one element a slice, or one for all.
        low: the smallest code.
        high: the largest code.
        kernels: what may compute either pass at once; None: torch does.
        name: what ``x`` is called in errors.

    Raises:
        QuantizationError: ``x`` holds NaN or infinity.

    Source: Esser et al. 2019, arXiv:1902.08153, equations 1-3 and 5, without the gradient's factor of section 2.2.
    """
    return cast(Tensor, _LearnedScale.apply(x, scale, low, high, kernels, name))  # type: ignore[no-untyped-call]


class _Inside(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, quantized: Tensor, low: Tensor, high: Tensor, kernels: ChosenKernels | None
    ) -> Tensor:
        ctx.save_for_backward(x, low, high)
        ctx.kernels = kernels
        return quantized

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,), (x, low, high) = gradients, ctx.saved_tensors
        given, sliced = _sliced(gradient, low), _sliced(x, low)
        fused = _serve(ctx.kernels, gradient)
        dx = None if fused is None or x.dtype != gradient.dtype else fused.mask_gradient(given, sliced, low, high)
        if dx is None:
            wide, bottom, top = sliced.to(torch.float32), low.reshape(-1, 1), high.reshape(-1, 1)
            dx = given * ((wide >= bottom) & (wide <= top)).to(given.dtype)
        return dx.reshape(x.shape), None, None, None, None


class _LearnedScale(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, low: float, high: float, kernels: ChosenKernels | None, name: str
    ) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.low, ctx.high, ctx.kernels = low, high, kernels
        sliced, per_slice = _sliced(x.detach(), scale), scale.detach().to(torch.float32).reshape(-1, 1)
        fused = None if kernels is None else kernels.serve(x)
        y = None if fused is None else fused.round_to_grid(sliced, Grid(per_slice, low, high))
        if y is None:
            check_finite(x, name)
            y = (sliced.to(torch.float32) / per_slice).round_().clamp_(low, high).mul_(per_slice)
        return y.reshape(x.shape).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None, None, None]:
        (gradient,), (x, scale), low, high = gradients, ctx.saved_tensors, ctx.low, ctx.high
        given, sliced = _sliced(gradient, scale), _sliced(x, scale)
        per_slice = scale.to(torch.float32).reshape(-1, 1)
        fused, found = _serve(ctx.kernels, gradient), None
        if fused is not None and x.dtype == gradient.dtype:
            found = fused.learned_scale_gradients(given, sliced, per_slice, low, high)
        dx, dscale = found or learned_scale_gradients(given, sliced, per_slice, low, high)
        return dx.reshape(x.shape).to(x.dtype), dscale.reshape(scale.shape).to(scale.dtype), None, None, None, None


def learned_scale_gradients(
    gradient: Tensor, x: Tensor, scale: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """Return ``(dL/dx, dL/dscale)`` of :func:`learned_scale` by torch, for slices ``x`` (slices, n).

    ``scale`` and its gradient are float32, (slices, 1) or (1, 1).
    """
    given, v = gradient.to(torch.float32), x.to(torch.float32) / scale
    inside = (v > low) & (v < high)
    terms = torch.where(inside, v.round() - v, v.clamp(low, high)) * given
    sums = terms.reshape(scale.numel(), -1).sum(dim=1, keepdim=True, dtype=torch.float64)
    return given * inside.to(torch.float32), sums.to(torch.float32)


def _sliced(x: Tensor, per_slice: Tensor) -> Tensor:
    """View ``x`` as (slices, n), where ``per_slice`` has an element for each slice, or one for all."""
    return x.reshape(per_slice.numel(), -1) if x.numel() else x.reshape(per_slice.numel(), 0)


def _serve(kernels: ChosenKernels | None, gradient: Tensor) -> Any:
    """Return what fuses a backward pass; nothing if the pass itself is differentiated, which takes torch."""
    return None if kernels is None or torch.is_grad_enabled() else kernels.serve(gradient)
