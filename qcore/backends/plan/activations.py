"""The steps that bound numbers from below or from above: ReLU, and with a limit ReLU6."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from qcore.backends.plan.base import Step
from qcore.tensor import ActivationScheme

__all__ = ["Limit", "Relu"]


@dataclass(frozen=True, eq=False)
class Relu(Step):
    """``max(x, 0)``; NaN stays. Of codes by ``codes``, if that is not None: ``max(code, code of 0)``."""

    codes: ActivationScheme | None = None
    name: ClassVar[str] = "relu"

    def widens(self, *precise: bool) -> bool:
        """Return whether the input is float64."""
        return precise[0]

    def apply(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        return F.relu(x) if self.codes is None else x.clamp_min(float(self.codes.codes(x.new_zeros(1))))


@dataclass(frozen=True, eq=False)
class Limit(Step):
    """``min(x, top)``; NaN stays. Of codes by ``codes``, if that is not None: ``min(code, code of top)``.

    After a ReLU it is a ReLU6. Rounding and clamping are monotone, so that the code of the smaller number is the
    smaller code.

    Attributes:
        top: a number that float32 holds.
    """

    top: float
    codes: ActivationScheme | None = None

    @property
    def title(self) -> str:
        """What it does."""
        return f"up to {self.top:g}"

    def apply(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        return x.clamp_max(self.top if self.codes is None else float(self.codes.codes(x.new_full((1,), self.top))))
