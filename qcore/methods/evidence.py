"""Evidence: what a finished run knows, in the form in which claims ask for it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qcore.errors import QcoreError

__all__ = ["Array", "Evidence", "MissingEvidenceError"]

Array: TypeAlias = NDArray[Any]


class MissingEvidenceError(QcoreError):
    """The run has not got what a claim asks for; the claim is then untested, with this as its reason."""


@dataclass(frozen=True)
class Evidence:
    """The results and per-sample evidence of a run.

    Attributes:
        metric: the task's primary metric.
        higher_is_better: its direction.
        arms: names of the arms, the baseline first.
        seeds: the seeds.
        folds: indices of the folds.
        data: the ``result.json`` data of every job.
        sizes: samples in the training and in the test part, means over the folds.
        load_samples: ``(arm, fold, seed)`` to that job's per-sample arrays.
        load_history: the same to the rows of its history, one an epoch.
        seed: seeds ``generator``.
    """

    metric: str
    higher_is_better: bool
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    folds: tuple[int, ...]
    data: Sequence[Mapping[str, Any]]
    sizes: tuple[int, int]
    load_samples: Callable[[str, int, int], Mapping[str, Array]]
    load_history: Callable[[str, int, int], Sequence[Mapping[str, Any]]] = lambda arm, fold, seed: ()
    seed: int = 0
    _index: dict[tuple[str, int, int], Mapping[str, Any]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        index = {(row["arm"], row["seed"], row["fold"]): row for row in self.data}
        object.__setattr__(self, "_index", index)

    def result(self, arm: str, fold: int, seed: int) -> Mapping[str, Any]:
        """Return one job's ``result.json`` data.

        Raises:
            MissingEvidenceError: the run has no such arm, or the job did not finish.
        """
        if arm not in self.arms:
            raise MissingEvidenceError(f"the run has no arm {arm!r}")
        try:
            return self._index[arm, seed, fold]
        except KeyError:
            raise MissingEvidenceError(f"arm {arm!r}, fold {fold}, seed {seed} did not finish") from None

    def results(self, arm: str) -> list[Mapping[str, Any]]:
        """Return the ``result.json`` data of ``arm``, by seed, then by fold."""
        return [self.result(arm, fold, seed) for seed in self.seeds for fold in self.folds]

    def scores(self, arm: str, metric: str | None = None) -> NDArray[np.float64]:
        """Return the test scores of ``arm`` as (seeds, folds), float64.

        Raises:
            MissingEvidenceError: there is no such arm or metric.
        """
        name = metric or self.metric
        rows = self.results(arm)
        if any(name not in row["scores"] for row in rows):
            raise MissingEvidenceError(f"the run has no metric {name!r}")
        values = [np.nan if row["scores"][name] is None else row["scores"][name] for row in rows]
        return np.asarray(values, dtype=np.float64).reshape(len(self.seeds), len(self.folds))

    def samples(self, arm: str) -> dict[str, Array]:
        """Return per-sample evidence of all seeds and folds, concatenated; keys that some job lacks are left out.

        Keys: ``index`` (row of the data), ``fold``, ``seed``, ``target`` and ``prediction`` (of several outputs:
        (samples, outputs)), ``confidence`` (classification only) and whatever ``Method.observe`` gave.
        """
        parts = [self.load_samples(arm, row["fold"], row["seed"]) for row in self.results(arm)]
        keys = [key for key in parts[0] if all(key in part for part in parts)] if parts else []
        return {key: np.concatenate([np.asarray(part[key]) for part in parts]) for key in keys}

    def histories(self, arm: str) -> list[Sequence[Mapping[str, Any]]]:
        """Return the history of each job of ``arm``, by seed, then by fold; see ``qcore.training.History``."""
        return [self.load_history(arm, row["fold"], row["seed"]) for row in self.results(arm)]

    def size(self, arm: str, key: str) -> float:
        """Return the mean over jobs of a size of ``arm``, such as ``weight_nbytes`` or ``effective_bits``."""
        values = [row["size"].get(key) for row in self.results(arm)]
        if any(value is None for value in values):
            raise MissingEvidenceError(f"arm {arm!r} has no size {key!r}")
        return float(np.mean(np.asarray(values, dtype=np.float64)))

    def train_test_sizes(self) -> tuple[int, int]:
        """Return how many samples a model was trained and tested on: what the corrected t test needs."""
        return self.sizes

    def generator(self, name: str) -> np.random.Generator:
        """Return a generator of its own for the test called ``name``, seeded by the run and the name."""
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        return np.random.default_rng(int.from_bytes(digest[:8], "little"))
