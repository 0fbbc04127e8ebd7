"""The step that joins two values: the end of a residual block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from qcore.backends.plan.base import Shape, Step, mismatch

__all__ = ["Add"]


@dataclass(frozen=True, eq=False)
class Add(Step):
    """``a + b`` of two values of one shape, rounded once; then ReLU if ``relu``."""

    relu: bool = False
    name: ClassVar[str] = "add"

    def infer(self, first: Shape, second: Shape) -> Shape:
        """Return the shape of both."""
        if first != second:
            raise mismatch(self, f"two values of one shape, ({', '.join(['rows', *map(str, first)])}) first", second)
        return first

    def apply(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the same shape."""
        y = first + second
        return F.relu(y) if self.relu else y
