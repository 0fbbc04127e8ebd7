"""Run: the directory of a run, read back at any time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcore.errors import QcoreError, UsageError
from qcore.runs.config import RunConfig, make_run_config
from qcore.runs.files import atomic_write, atomic_write_json, read_json
from qcore.runs.process import is_alive

if TYPE_CHECKING:
    from qcore.methods.evidence import Array, Evidence

__all__ = ["CHECKPOINT", "Job", "Run", "atomic_write", "file_sha256"]

CHECKPOINT = "training.safetensors"
"""In a job's folder, the state of one that trains for long; removed once its result is written."""

RECORDED = frozenset({"status", "host", "pid", "config", "settings", "arms", "seeds", "folds", "data", "framework"})
"""What any record of a run has at least."""


@dataclass(frozen=True, order=True)
class Job:
    """The smallest unit of a run, and of resuming: one arm on one fold with one seed."""

    seed: int
    fold: int
    arm: str

    def __str__(self) -> str:
        return f"arm {self.arm}, fold {self.fold}, seed {self.seed}"


class Run:
    """A run's directory.

    Args:
        path: the directory, which holds ``run.json``.

    Raises:
        UsageError: there is no run at ``path``.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not (self.path / "run.json").is_file():
            raise UsageError(f"{self.path} is not a run: it has no run.json", "name a directory that 'qcore run' made")

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def record(self) -> dict[str, Any]:
        """The data of ``run.json``.

        Raises:
            QcoreError: it cannot be read.
            UsageError: it is no record of a run.
        """
        file = self.path / "run.json"
        data = read_json(file)
        if not isinstance(data, dict) or not data.keys() >= RECORDED or not isinstance(data["config"], dict):
            raise UsageError(f"{file} is no record of a run", "name a directory that 'qcore run' made")
        return data

    @property
    def config(self) -> RunConfig:
        """The run's options."""
        return make_run_config(self.record["config"])

    @property
    def status(self) -> str:
        """``done``, ``failed``, ``interrupted``, or ``running`` while its process lives."""
        record = self.record
        if record["status"] == "running" and not is_alive(record):
            return "interrupted"
        return str(record["status"])

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The data of ``summary.json``.

        Raises:
            QcoreError: the run is not finished.
        """
        path = self.path / "summary.json"
        if not path.is_file():
            raise QcoreError(f"{self.path} has no summary yet: it is {self.status}", resume_hint(self.path))
        data: dict[str, Any] = read_json(path)
        return data

    @cached_property
    def _one_seed(self) -> bool:
        return len(self.record["seeds"]) == 1

    def folder(self, job: Job) -> Path:
        """Return the folder of ``job``: ``<arm>/fold-<k>``, with ``-seed-<s>`` where there are several seeds."""
        return self.path / job.arm / (f"fold-{job.fold}" + ("" if self._one_seed else f"-seed-{job.seed}"))

    def model_path(self, arm: str, fold: int = 0, seed: int | None = None) -> Path:
        """Return the path of a trained model; by default that of the first seed."""
        first = self.record["seeds"][0] if seed is None else seed
        return self.folder(Job(first, fold, arm)) / "model.safetensors"

    def jobs(self) -> list[Job]:
        """Return all jobs of the run, in the order in which one process would do them."""
        record = self.record
        arms = [arm["name"] for arm in record["arms"]]
        return [Job(seed, fold, arm) for seed in record["seeds"] for fold in record["folds"] for arm in arms]

    def result(self, job: Job) -> dict[str, Any] | None:
        """Return the data of a finished job's ``result.json``, or None if it is not finished or not whole."""
        found = self._look_at(job)
        return None if isinstance(found, str) else found

    def problem(self, job: Job) -> str | None:
        """Return why ``job`` has no result: it is not finished, or its files are not those recorded; None if it has."""
        found = self._look_at(job)
        return found if isinstance(found, str) else None

    def _look_at(self, job: Job) -> dict[str, Any] | str:
        folder = self.folder(job)
        path = folder / "result.json"
        if not path.is_file():
            return "not finished"
        try:
            data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            same = Job(data["seed"], data["fold"], data["arm"]) == job and data["status"] == "done"
            problems = [_file_problem(folder / name, digest) for name, digest in data["files"].items()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return "its result.json is damaged"
        if not same:
            return "its result.json is that of another job"
        return ", ".join(problem for problem in problems if problem) or data

    def results(self) -> list[dict[str, Any]]:
        """Return the data of every finished job, by seed, fold and arm."""
        return [data for job in self.jobs() if (data := self.result(job)) is not None]

    def samples(self, arm: str, fold: int, seed: int) -> dict[str, Array]:
        """Return the per-sample arrays of a finished job."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self.folder(Job(seed, fold, arm)) / "samples.safetensors"
        try:
            return dict(load_file(path))
        except (OSError, SafetensorError) as error:
            raise QcoreError(f"cannot read {path}: {error}") from error

    def history(self, arm: str, fold: int = 0, seed: int | None = None) -> list[dict[str, Any]]:
        """Return the rows of a job's history."""
        path = self.model_path(arm, fold, seed).with_name("history.jsonl")
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return [json.loads(line) for line in text.splitlines()]

    def evidence(self) -> Evidence:
        """Return the run's evidence, as claims and reports ask for it."""
        from qcore.methods.evidence import Evidence

        record, results = self.record, self.results()
        sizes = [(row["samples"]["train"], row["samples"]["test"]) for row in results] or [(0, 0)]
        train, test = (round(sum(part) / len(part)) for part in zip(*sizes, strict=True))
        return Evidence(
            metric=record["metric"],
            higher_is_better=record["higher_is_better"],
            arms=tuple(arm["name"] for arm in record["arms"]),
            seeds=tuple(record["seeds"]),
            folds=tuple(record["folds"]),
            data=results,
            sizes=(train, test),
            load_samples=self.samples,
            load_history=self.history,
            seed=record["seeds"][0],
        )

    def update(self, **changes: Any) -> None:
        """Write ``changes`` into ``run.json``."""
        atomic_write_json(self.path / "run.json", {**self.record, **changes})

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``."""
        atomic_write_json(self.path / "summary.json", summary)
        self.__dict__.pop("summary", None)


def resume_hint(path: Path) -> str:
    """Return the command that goes on with the run at ``path``."""
    return f"go on with: qcore run --resume {path}"


def _file_problem(path: Path, digest: str) -> str | None:
    try:
        return None if file_sha256(path) == digest else f"its {path.name} is not the one recorded"
    except OSError as error:
        return f"its {path.name} cannot be read: {error.strerror or error}"


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
