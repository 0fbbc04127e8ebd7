"""Rounding to a learned grid: one step size ``d`` and one range ``r`` for each slice, and the gradients of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from qcore_hetero_diffq.quantizers.config import Surrogate
from qcore_hetero_diffq.quantizers.surrogate import Source, scaled_gradient

__all__ = ["Grid", "Watcher", "derived_bits", "rounded"]


_AT_ONCE = 1 << 17
"""Elements of a slice that a CPU works on at a time: what they become from one operation to the next stays cached."""


@dataclass(frozen=True)
class Grid:
    """What the slices (rows, groups, n) of a tensor are rounded to, float32 (rows, groups, 1) each.

    In float32 and in this order: ``code = clamp(round(x * inverse), low, high)`` with ties to even, ``y = code * d``.
    Of a binary slice: ``code = 1 if x >= 0 else -1``.

    Attributes:
        step: ``d``.
        inverse: its inverse.
        range: ``r``; beyond it lies what saturates.
        high: the largest code, ``round(r / d)``.
        low: the smallest, ``-high``, or 0.
        fixed: bool, whether ``r`` is ``high * d``: a slice whose width stands still.
        binary: bool.
    """

    step: Tensor
    inverse: Tensor
    range: Tensor
    high: Tensor
    low: Tensor
    fixed: Tensor
    binary: Tensor | None = None

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes of float32 ``x`` (rows, groups, n)."""
        codes = torch.clamp((x * self.inverse).round_(), self.low, self.high)
        if self.binary is None:
            return codes
        return torch.where(self.binary, torch.where(x >= 0, 1.0, -1.0), codes)


class Watcher(Source, Protocol):
    """What looks at gradients in the backward pass, and where its random numbers come from."""

    def watch(self, gradient: Tensor, x: Tensor) -> None:
        """See ``dL/dy`` and ``x``, both (rows, groups, n)."""


def rounded(
    x: Tensor, step: Tensor, range: Tensor, grid: Grid, surrogate: Surrogate, delta: float | Tensor, own: Watcher
) -> Tensor:
    """Return ``x`` (rows, groups, n) rounded to ``grid``, differentiable in ``x``, ``step`` and ``range``.

    With ``z = x / d``, ``R = r / d``, ``z' = clamp(z, -R, R)`` (0 to R unsigned), ``g = dL/dy``, ``m`` the surrogate's
    factor at ``e = z' - code``::

        dL/dx = g m 1[|z| <= R]                       (unsigned: 1[0 <= z <= R])
        dL/dd = sum of g (code - m z')                r of its own
                sum of g (code - m z' 1[|z| <= R])    r = high * d
        dL/dr = sum of g m sign(x) 1[|z| > R]         r of its own; else 0   (unsigned: sum of g m 1[z > R])

    A binary slice has ``dL/dx = g`` and ``dL/dd = sum of g code``.

    Source: Uhlich et al. 2020, arXiv:1905.11452, its parametrization U3; Schaefer et al., arXiv:2206.07741.
    """
    return cast(Tensor, _Rounded.apply(x, step, range, grid, surrogate, delta, own))  # type: ignore[no-untyped-call]


def derived_bits(step: Tensor, range: Tensor, *, signed: bool | Tensor, least: int, smooth: bool = False) -> Tensor:
    """Return ``max(ceil(log2(L + 1)) + signed, least)`` with ``L = round(r / d)``, float32 like ``step``.

    Straight through both roundings::

        db/dr = 1 / (ln 2 d (L + 1))        db/dd = -(r / d**2) / (ln 2 (L + 1))

    and 0 where ``least`` is above. With ``smooth`` nothing is rounded: ``max(log2(r / d + 1) + signed, least)``.
    """
    ratio = range / step
    if smooth:
        width = torch.log2(ratio + 1)
        return (width + torch.as_tensor(signed, dtype=width.dtype, device=width.device)).clamp_min(least)
    levels = ratio + (ratio.round() - ratio).detach()
    log = torch.log2(levels + 1)
    width = log + (log.ceil() - log).detach()
    return (width + torch.as_tensor(signed, dtype=width.dtype, device=width.device)).clamp_min(least)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, step: Tensor, range: Tensor, grid: Grid, surrogate: Surrogate, delta: Any, own: Watcher
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.grid, ctx.surrogate, ctx.delta, ctx.own = grid, surrogate, delta, own
        y = torch.empty_like(x)
        for part, out in _parts(x, y):
            torch.mul(grid.codes(part), grid.step, out=out)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x,), grid = gradients, ctx.saved_tensors, cast(Grid, ctx.grid)
        ctx.own.watch(gradient, x)
        dx = torch.empty_like(x)
        dstep = torch.zeros_like(grid.step, dtype=torch.float64) if ctx.needs_input_grad[1] else None
        drange = torch.zeros_like(grid.step, dtype=torch.float64) if ctx.needs_input_grad[2] else None
        for g, part, out in _parts(gradient, x, dx):
            codes, clamped, inside = _places(part, grid)
            error = clamped - codes
            if grid.binary is not None:
                error, clamped = error.masked_fill(grid.binary, 0), clamped.masked_fill(grid.binary, 0)
            scaled = scaled_gradient(ctx.surrogate, ctx.delta, g, error, ctx.own)
            torch.mul(scaled, inside, out=out)
            if dstep is not None:
                dstep += _summed(g * codes - torch.where(inside | ~grid.fixed, scaled, 0.0) * clamped)
            if drange is not None:
                drange += _summed((scaled - out) * clamped.sign())
        if drange is not None:
            drange.masked_fill_(grid.fixed, 0)
        return dx, *(None if total is None else total.to(torch.float32) for total in (dstep, drange)), *(None,) * 4


def _parts(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield views of the tensors (rows, groups, n), a part of each slice after the other; all at once on a GPU."""
    at_once = _AT_ONCE if tensors[0].device.type == "cpu" else max(tensors[0].shape[-1], 1)
    return zip(*(torch.split(tensor, at_once, dim=-1) for tensor in tensors), strict=True)


def _places(x: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes, ``z'``, and where ``z`` is that."""
    z, bound = x * grid.inverse, _bound(grid)
    clamped = torch.clamp(z, torch.where(grid.low < 0, -bound, 0.0), bound)
    return grid.codes(x), clamped, clamped == z


def _bound(grid: Grid) -> Tensor:
    bound = torch.where(grid.fixed, grid.high, grid.range * grid.inverse)
    return bound if grid.binary is None else bound.masked_fill(grid.binary, torch.inf)


def _summed(terms: Tensor) -> Tensor:
    return terms.sum(dim=-1, keepdim=True, dtype=torch.float64)
