from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcore.methods import Evidence, MissingEvidenceError


def row(arm: str, seed: int, fold: int, score: float | None) -> dict[str, Any]:
    return {
        "arm": arm,
        "seed": seed,
        "fold": fold,
        "scores": {"accuracy": score},
        "size": {"weight_nbytes": 100 * (fold + 1)},
    }


def samples(arm: str, fold: int, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {"index": np.array([fold]), "seed": np.array([seed])}
    return {**found, "expert": np.array([1])} if fold == 0 else found


def evidence(rows: list[dict[str, Any]]) -> Evidence:
    return Evidence(
        metric="accuracy",
        higher_is_better=True,
        arms=("float", "int8"),
        seeds=(3, 5),
        folds=(0, 1),
        data=rows,
        sizes=(80, 20),
        load_samples=samples,
        seed=3,
    )


def full() -> list[dict[str, Any]]:
    # given in another order than seeds and folds: scores() must sort
    return [row(a, s, f, s + f / 10) for a in ("int8", "float") for f in (1, 0) for s in (5, 3)]


def test_scores_are_seeds_by_folds_in_their_order() -> None:
    assert evidence(full()).scores("float").tolist() == [[3.0, 3.1], [5.0, 5.1]]


def test_a_score_that_is_null_is_nan_not_zero() -> None:
    rows = [row("float", s, f, None) for s in (3, 5) for f in (0, 1)]
    assert np.isnan(evidence(rows).scores("float")).all()


def test_an_unknown_arm_metric_or_size_and_an_unfinished_job_are_missing_evidence() -> None:
    found = evidence(full()[:-1])
    for ask in (
        lambda: found.scores("absent"),
        lambda: found.scores("int8", "f2"),
        lambda: found.size("int8", "weight"),
        lambda: found.scores("float"),
    ):
        with pytest.raises(MissingEvidenceError):
            ask()


def test_samples_are_concatenated_over_seeds_and_folds_and_partial_keys_left_out() -> None:
    found = evidence(full()).samples("float")
    assert found["index"].tolist() == [0, 1, 0, 1]
    assert found["seed"].tolist() == [3, 3, 5, 5]
    assert "expert" not in found


def test_a_size_is_the_mean_over_jobs() -> None:
    assert evidence(full()).size("float", "weight_nbytes") == 150.0


def test_generators_are_the_same_for_one_name_and_differ_between_names() -> None:
    found = evidence(full())
    assert found.generator("a").integers(1 << 40) == found.generator("a").integers(1 << 40)
    assert found.generator("a").integers(1 << 40) != found.generator("b").integers(1 << 40)
