"""compare: the arms of several runs of one task, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcore.errors import QcoreError, UsageError
from qcore.runs.rundir import Run
from qcore.runs.summary import paired_differences

if TYPE_CHECKING:
    from qcore.methods.evidence import Evidence

__all__ = ["Comparison", "compare"]


@dataclass(frozen=True)
class Comparison:
    """Arms of several runs on the same data, folds and seeds.

    Attributes:
        task: the task's id.
        metric: the primary metric.
        higher_is_better: its direction.
        rows: one an arm: ``run``, ``arm``, ``mean``, ``std``, ``values``, ``nbytes``, ``effective_bits``,
            ``latency_us`` and ``modelled_energy_j`` as in ``summary.json``.
        tests: a paired test of every arm against the first run's baseline, Holm-adjusted over all of them; empty
            where the runs do not share their seeds.
    """

    task: str
    metric: str
    higher_is_better: bool
    rows: list[dict[str, Any]]
    tests: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return {
            "schema": 1,
            "task": self.task,
            "metric": self.metric,
            "higher_is_better": self.higher_is_better,
            "rows": self.rows,
            "tests": self.tests,
        }


def compare(runs: Sequence[Run | Path | str]) -> Comparison:
    """Compare the arms of finished runs.

    Raises:
        UsageError: no run, or runs of different data or folds: their scores cannot be compared.
        QcoreError: a run is not finished, or files that the tests need are not those that it recorded.
    """
    opened = [run if isinstance(run, Run) else Run(run) for run in runs]
    if not opened:
        raise UsageError("there is no run to compare")
    first = opened[0]
    for other in opened[1:]:
        _check_alike(first, other)
    return Comparison(
        task=first.summary["task"],
        metric=first.summary["metric"],
        higher_is_better=first.summary["higher_is_better"],
        rows=[_row(run, name, arm) for run in opened for name, arm in run.summary["arms"].items()],
        tests=_tests(opened),
    )


def _check_alike(first: Run, other: Run) -> None:
    one, two = first.record, other.record
    facts = {
        "task": (one["task"], two["task"]),
        "data": (one["data"]["digest"], two["data"]["digest"]),
        "folds": (one["folds"], two["folds"]),
        "validation part": (one["config"]["validation"], two["config"]["validation"]),
        "metric": (one["metric"], two["metric"]),
    }
    different = [f"{name}: {a} and {b}" for name, (a, b) in facts.items() if a != b]
    if different:
        raise UsageError(
            f"{first.path} and {other.path} cannot be compared:\n  " + "\n  ".join(different),
            "compare runs of one task on the same data and folds",
        )


def _row(run: Run, name: str, arm: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": str(run.path),
        "arm": name,
        "summary": arm["summary"],
        **arm["score"],
        "nbytes": arm["nbytes"],
        "effective_bits": arm["effective_bits"],
        "latency_us": arm["latency_us"],
        "modelled_energy_j": arm["modelled_energy_j"],
    }


def _tests(runs: Sequence[Run]) -> list[dict[str, Any]]:
    first = runs[0]
    baseline = first.summary["baseline"]
    if baseline is None or any(run.record["seeds"] != first.record["seeds"] for run in runs):
        return []
    evidences = [_evidence(run) for run in runs]
    others = {
        (str(run.path), arm): evidence.scores(arm) - evidences[0].scores(baseline)
        for run, evidence in zip(runs, evidences, strict=True)
        for arm in evidence.arms
        if (run, arm) != (first, baseline)
    }
    found = paired_differences(list(others.values()), evidences[0].train_test_sizes())
    named = zip(others, found, strict=True)
    return [{"run": path, "arm": arm, "baseline": f"{first.path}:{baseline}", **row} for (path, arm), row in named]


def _evidence(run: Run) -> Evidence:
    """Return the evidence of ``run``, if it is whole."""
    problems = [f"{job}: {problem}" for job in run.jobs() if (problem := run.problem(job))]
    if problems:
        raise QcoreError(
            f"{run.path} is not as it was recorded:\n  " + "\n  ".join(problems),
            f"restore its files, or train those jobs again with: qcore run --resume {run.path}",
        )
    return run.evidence()
