"""The steps of routers and mixtures. Routers compute in float64, so that a route does not depend on the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from qcore.backends.plan.base import FLOAT_BOUND, Program, Shape, Step, WideStep, mismatch

__all__ = [
    "Choose",
    "Constant",
    "Disagreement",
    "Experts",
    "MaskedCopies",
    "Normalise",
    "PassMean",
    "Softmax",
    "Tilt",
    "combine",
]


@dataclass(frozen=True, eq=False)
class MaskedCopies(WideStep):
    """``x`` under each of M masks: float64 (width,) or (M, width) to (M, width).

    Attributes:
        masks: float64 (M, width).
    """

    masks: Tensor
    name: ClassVar[str] = "masks"

    def infer(self, shape: Shape) -> Shape:
        """Return (M, width)."""
        passes, width = self.masks.shape
        if shape not in ((width,), (passes, width)):
            raise mismatch(self, f"{width} features", shape)
        return (passes, width)

    def apply(self, x: Tensor) -> Tensor:
        """Return (rows, M, width)."""
        return (x.unsqueeze(1) if x.dim() == 2 else x) * self.masks


@dataclass(frozen=True, eq=False)
class Softmax(WideStep):
    """Softmax over the last axis, float64."""

    name: ClassVar[str] = "softmax"

    @property
    def bound(self) -> float:
        """That of its sums."""
        return FLOAT_BOUND

    def apply(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        return torch.softmax(x, dim=-1)


@dataclass(frozen=True, eq=False)
class PassMean(WideStep):
    """The mean over passes: float64 (M, width) to (width,)."""

    name: ClassVar[str] = "mean over passes"

    @property
    def bound(self) -> float:
        """That of its sums."""
        return FLOAT_BOUND

    def infer(self, shape: Shape) -> Shape:
        """Return (width,)."""
        if len(shape) != 2:
            raise mismatch(self, "(rows, passes, width)", shape)
        return shape[1:]

    def apply(self, x: Tensor) -> Tensor:
        """Return (rows, width)."""
        return x.mean(dim=1)


@dataclass(frozen=True, eq=False)
class Disagreement(WideStep):
    """How far M probability vectors disagree: float64 (M, width) to (1,); one vector gives 0.

    ``mutual_information``: ``max(H(mean_m p^m) - mean_m H(p^m), 0)`` in nats. ``variance``: ``sum_e Var_m p^m_e``.
    """

    kind: Literal["mutual_information", "variance"]

    @property
    def bound(self) -> float:
        """That of its sums."""
        return FLOAT_BOUND

    @property
    def title(self) -> str:
        """What it does."""
        return self.kind.replace("_", " ")

    def infer(self, shape: Shape) -> Shape:
        """Return (1,)."""
        if len(shape) != 2:
            raise mismatch(self, "(rows, passes, width)", shape)
        return (1,)

    def apply(self, x: Tensor) -> Tensor:
        """Return (rows, 1)."""
        mean = x.mean(dim=1)
        if x.shape[1] == 1:
            return mean.new_zeros(len(x), 1)
        if self.kind == "variance":
            return (x - mean.unsqueeze(1)).square().mean(dim=1).sum(dim=1, keepdim=True)
        spread = _entropy(mean) - _entropy(x).mean(dim=1)
        return spread.clamp_min(0.0).unsqueeze(1)


@dataclass(frozen=True, eq=False)
class Normalise(WideStep):
    """``clip((x - low) / (high - low), 0, 1)`` of float64 in float32, and 0 where ``high <= low``; gives float64."""

    low: float
    high: float
    name: ClassVar[str] = "normalise"

    @property
    def bound(self) -> float:
        """That of its sums."""
        return FLOAT_BOUND

    def apply(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        low, high = (torch.tensor(value, dtype=torch.float32, device=x.device) for value in (self.low, self.high))
        if not high > low:
            return torch.zeros_like(x)
        return ((x.float() - low) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)).clamp(0.0, 1.0).to(x.dtype)


@dataclass(frozen=True, eq=False)
class Tilt(WideStep):
    """``p_i exp(a_i) / sum_j p_j exp(a_j) * sum_j p_j`` with ``a_i = u slope_i + intercept_i``, float64.

    Reads p, float64 (width,), and u, float64 (1,).

    Attributes:
        slope, intercept: float64 (width,).
    """

    slope: Tensor
    intercept: Tensor
    name: ClassVar[str] = "tilt"

    @property
    def bound(self) -> float:
        """That of its sums."""
        return FLOAT_BOUND

    def infer(self, p: Shape, u: Shape) -> Shape:
        """Return (width,)."""
        if p != tuple(self.slope.shape) or u != (1,):
            raise mismatch(self, f"({len(self.slope)},) and (1,)", (*p, *u))
        return p

    def apply(self, p: Tensor, u: Tensor) -> Tensor:
        """Return (rows, width)."""
        possible = (u * self.slope + self.intercept).masked_fill(p <= 0, -torch.inf)
        tilted = p * torch.exp(possible - possible.amax(dim=1, keepdim=True))
        return tilted / (tilted.sum(dim=1, keepdim=True) / p.sum(dim=1, keepdim=True))


@dataclass(frozen=True, eq=False)
class Choose(WideStep):
    """The k largest of float64 (width,), rounded to float32, the lowest index first in a tie; float32 shares of 1.

    The others are 0; NaN stays NaN.
    """

    k: int

    @property
    def bound(self) -> float:
        """That of its sums."""
        return FLOAT_BOUND

    @property
    def title(self) -> str:
        """What it does."""
        return f"choose {self.k}"

    def widens(self, *precise: bool) -> bool:
        """Return False: shares are float32."""
        return not super().widens(*precise)

    def apply(self, x: Tensor) -> Tensor:
        """Return (rows, width)."""
        p = x.float()
        chosen = p.sort(dim=1, descending=True, stable=True).indices[:, : self.k]
        values = p.gather(1, chosen)
        return torch.zeros_like(p).scatter(1, chosen, values / values.sum(dim=1, keepdim=True))


@dataclass(frozen=True, eq=False)
class Constant(Step):
    """The same numbers for every sample: float32 (width,)."""

    numbers: Tensor
    name: ClassVar[str] = "constant"

    def widens(self, *precise: bool) -> bool:
        """Return False, whatever the input is."""
        return False

    def infer(self, shape: Shape) -> Shape:
        """Return (width,)."""
        return tuple(self.numbers.shape)

    def apply(self, x: Tensor) -> Tensor:
        """Return (rows, width)."""
        return self.numbers.expand(len(x), -1)


@dataclass(frozen=True, eq=False)
class Experts(Step):
    """``sum_e w_e f_e(x)`` over the experts of non-zero weight; samples are grouped, each expert runs once a batch.

    Reads x and the weights, float32 (experts,).

    Attributes:
        bodies: a program for each expert, all with the same output shape.
    """

    bodies: tuple[Program, ...]

    @property
    def title(self) -> str:
        """What it does."""
        return f"{len(self.bodies)} experts on grouped rows"

    def infer(self, x: Shape, weights: Shape) -> Shape:
        """Return the shape that every expert gives."""
        if weights != (len(self.bodies),):
            raise mismatch(self, f"weights of {len(self.bodies)} experts", weights)
        found = {body.shapes(x)[body.output] for body in self.bodies}
        if len(found) != 1:
            raise mismatch(self, f"experts of one output shape, not {sorted(found)}", x)
        return found.pop()

    def apply(self, x: Tensor, weights: Tensor) -> Tensor:
        """Return (rows, ...)."""
        return combine(self.bodies, x, weights)


def combine(experts: Sequence[Callable[[Tensor], Tensor]], x: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted sum of the experts' outputs for ``x`` (rows, ...), by ``weights`` (rows, experts)."""
    out: Tensor | None = None
    called = weights.detach() != 0
    for index, expert in enumerate(experts):
        rows = called[:, index].nonzero().squeeze(1)
        if rows.numel() == 0:
            continue
        part = expert(x[rows])
        weight = weights[rows, index].reshape(-1, *([1] * (part.dim() - 1))).to(part.dtype)
        if out is None:
            out = part.new_zeros(x.shape[0], *part.shape[1:])
        out = out.index_add(0, rows, part * weight)
    # No row called any expert: an empty batch, or weights of nothing but zeros.
    return torch.zeros_like(experts[0](x)) if out is None else out


def _entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(dim=-1)
