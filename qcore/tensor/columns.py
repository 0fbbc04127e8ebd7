"""Columns: a clip and a width for each column of a layer's input, on one common integer grid."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qcore.errors import QuantizationError

__all__ = ["GRIDS", "Columns"]

GRIDS: dict[tuple[int, bool], int] = {(8, False): 255, (16, False): 65535, (8, True): 126, (16, True): 32760}
"""The largest code of the common grid, by (bits of the grid, symmetric).

Codes of 4, 8 and 16 bits align on it: a column's largest code times its step is the grid's.

========== ============ ============================ ============================
symmetric  bits a column largest code                 step on the grid of 8, of 16
========== ============ ============================ ============================
no         4, 8, 16      15, 255, 65535               17, 1, - ; 4369, 257, 1
yes        4, 8, 16      7, 126, 32760                18, 1, - ; 4680, 260, 1
========== ============ ============================ ============================
"""


@dataclass(frozen=True)
class Columns:
    """``code_j = clamp(round(x_j * inverse_j), low_j, largest_j) * step_j``, each in float32, ties to even.

    ``low_j`` is 0, or ``-largest_j`` under a symmetric scheme. A unit of code is worth ``scale`` in every column, so
    that a layer has one integer sum an output.

    Attributes:
        inverse: float32 (1, cols): the column's largest code over its clip.
        largest: float32 (1, cols), whole numbers from 0 on.
        step: float32 (1, cols), whole numbers from 1 on; ``largest * step`` is at most the grid's largest code.
        scale: float32 (1, 1).
    """

    inverse: Tensor
    largest: Tensor
    step: Tensor
    scale: Tensor

    def __post_init__(self) -> None:
        """Check what can be checked without reading numbers.

        Raises:
            QuantizationError: a part has another shape or dtype.
        """
        shape = self.inverse.shape
        wanted = {"inverse": (1, shape[-1] if shape else 0), "largest": shape, "step": shape, "scale": (1, 1)}
        for name, expected in wanted.items():
            part: Tensor = getattr(self, name)
            if tuple(part.shape) != tuple(expected) or part.dtype is not torch.float32:
                raise QuantizationError(
                    f"the {name} of columns is {tuple(part.shape)} {part.dtype} where {tuple(expected)} float32 belongs"
                )

    def codes(self, rows: Tensor, *, symmetric: bool) -> Tensor:
        """Return the codes of float32 ``rows`` (tokens, cols): whole numbers of the grid, float32; NaN of NaN."""
        low = -self.largest if symmetric else torch.zeros_like(self.largest)
        return (rows * self.inverse).round_().clamp_(low, self.largest).mul_(self.step)

    def to(self, device: torch.device | str) -> Columns:
        """Return a copy on ``device``."""
        return Columns(*(part.to(device) for part in (self.inverse, self.largest, self.step, self.scale)))
