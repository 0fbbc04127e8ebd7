"""What a report is made of."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcore.runs.report.pareto import Point

if TYPE_CHECKING:
    from qcore.methods.evidence import Evidence

__all__ = ["Material", "interval"]


@dataclass(frozen=True)
class Material:
    """What the report is made of.

    Attributes:
        directory: the run's directory.
        record: the data of ``run.json``.
        summary: the data of ``summary.json``.
        evidence: the results and per-sample evidence.
    """

    directory: Path
    record: Mapping[str, Any]
    summary: Mapping[str, Any]
    evidence: Evidence

    @property
    def arms(self) -> Mapping[str, Mapping[str, Any]]:
        """The summary's arms by name, the baseline first."""
        found: Mapping[str, Mapping[str, Any]] = self.summary["arms"]
        return found

    @property
    def baseline(self) -> str:
        """Name of the arm that the others are compared with."""
        return next((name for name, arm in self.arms.items() if arm.get("baseline")), next(iter(self.arms)))

    @property
    def title(self) -> str:
        """The method and the task, in few words."""
        plugin, _, method = str(self.summary["plugin"]).partition("/")
        name = plugin if method in ("", plugin) else method if plugin == "core" else f"{plugin}/{method}"
        return f"{name} on {str(self.summary['task']).removeprefix('core/')}"

    @property
    def metric(self) -> str:
        """Name of the primary metric."""
        return str(self.summary["metric"])

    @property
    def colours(self) -> dict[str, int]:
        """Each arm's number, which decides its colour in every figure."""
        return {name: number for number, name in enumerate(self.arms)}

    @cached_property
    def points(self) -> list[Point]:
        """Each arm that has a score, as a point of the picture of score against bytes."""
        return [self._point(name, arm) for name, arm in self.arms.items() if arm["score"]["mean"] is not None]

    def _point(self, name: str, arm: Mapping[str, Any]) -> Point:
        mean = float(arm["score"]["mean"])
        low, high = interval(arm["score"], self.evidence.train_test_sizes()) or (mean, mean)
        return Point(name, float(arm["nbytes"] or 0), mean, low, high)


def interval(score: Mapping[str, Any], sizes: tuple[int, int]) -> tuple[float, float] | None:
    """Return the 95 % interval of a mean over folds and seeds, or None for fewer than two values.

    The variance is corrected for training sets that overlap: ``(1/n + n_test/n_train) s^2`` with n - 1 degrees of
    freedom. Source: Nadeau and Bengio, Inference for the generalization error, 2003, section 3.
    """
    from scipy import stats

    values = [float(v) for v in _flat(score.get("values", [])) if v is not None]
    if len(values) < 2:
        return None
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    train, test = sizes
    half = float(stats.t.ppf(0.975, len(values) - 1)) * math.sqrt(variance * (1 / len(values) + test / max(train, 1)))
    return mean - half, mean + half


def _flat(values: Any) -> Iterator[Any]:
    if isinstance(values, list | tuple):
        for value in values:
            yield from _flat(value)
    else:
        yield values
