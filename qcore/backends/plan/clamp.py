"""The step of an activation with two bounds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from qcore.backends.plan.base import Step

__all__ = ["Clamp"]


@dataclass(frozen=True, eq=False)
class Clamp(Step):
    """``min(max(x, low), high)``; NaN stays. ReLU6 is that of 0 and 6.

    Attributes:
        low, high: the bounds, as float32 has them.
    """

    low: float
    high: float
    name: ClassVar[str] = "clamp"

    @property
    def title(self) -> str:
        """What it does."""
        return f"clamp to {self.low:g}..{self.high:g}"

    def apply(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        return x.clamp(self.low, self.high)
