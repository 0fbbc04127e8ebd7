"""What a statistical test found, and the checks that its inputs share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcore.errors import QcoreError, UsageError

__all__ = ["Outcome", "as_numbers", "check_level", "check_pairs"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The result of one test. What could not be computed is None, and ``reason`` says why.

    Attributes:
        method: what was done, in words that a report can print.
        n: how many numbers, or pairs, or numbers of both samples together.
        estimate: of the quantity that the test is about, such as the mean difference.
        statistic: of the test.
        p_value: of the test.
        interval: lower and upper confidence bounds of the estimate.
        confidence: of the interval.
        reason: why something is None, or in what way the data were degenerate.
    """

    method: str
    n: int
    estimate: float | None = None
    statistic: float | None = None
    p_value: float | None = None
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        data = asdict(self)
        data["interval"] = None if self.interval is None else list(self.interval)
        return data


def as_numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """Return ``values`` as a flat float64 array.

    Raises:
        QcoreError: one of them is NaN or infinite.
    """
    array = np.asarray(values, dtype=np.float64).ravel()
    if not np.isfinite(array).all():
        raise QcoreError(f"{name} hold NaN or infinity, so nothing can be tested")
    return array


def check_pairs(a: Sequence[Any] | NDArray[Any], b: Sequence[Any] | NDArray[Any]) -> None:
    """Raise UsageError if ``a`` and ``b`` are not pairs."""
    if len(a) != len(b):
        raise UsageError(f"a paired test needs as many values on both sides, got {len(a)} and {len(b)}")


def check_level(value: float, name: str) -> None:
    """Raise UsageError if ``value`` is not strictly between 0 and 1."""
    if not 0.0 < value < 1.0:
        raise UsageError(f"{name} must lie between 0 and 1, got {value}")
