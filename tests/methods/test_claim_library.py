from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcore.methods import Claim, Evidence, judge
from qcore.methods.claim_library import better, equivalence, not_worse, size_ratio

SCORES = {"float": [0.90, 0.91, 0.92, 0.90, 0.91], "close": [0.901, 0.909, 0.921, 0.9, 0.909]}
FAR = {"far": [0.80, 0.84, 0.83, 0.81, 0.82]}


def evidence(folds: int = 5, higher: bool = True) -> Evidence:
    scores = {**SCORES, **FAR}
    nbytes = {"float": 4000, "close": 1000, "far": 500}
    data: list[dict[str, Any]] = [
        {
            "arm": arm,
            "seed": 0,
            "fold": fold,
            "scores": {"f1": scores[arm][fold]},
            "size": {"weight_nbytes": nbytes[arm]},
        }
        for arm in scores
        for fold in range(folds)
    ]
    return Evidence(
        metric="f1",
        higher_is_better=higher,
        arms=tuple(scores),
        seeds=(0,),
        folds=tuple(range(folds)),
        data=data,
        sizes=(800, 200),
        load_samples=lambda arm, fold, seed: {},
    )


def verdict(claim: Claim, **options: Any) -> dict[str, Any]:
    return judge([claim], evidence(**options))[0]


def test_equivalence_holds_within_the_margin_and_fails_beyond_it() -> None:
    close = verdict(equivalence("c", "close", "float", margin=0.01))
    far = verdict(equivalence("c", "far", "float", margin=0.01))
    assert (close["verdict"], far["verdict"]) == ("holds", "fails")
    assert close["p_value"] < 0.05 < far["p_value"]
    assert far["value"] == pytest.approx(-0.088)
    assert "0.01" in close["test"]


def test_the_margin_of_an_error_is_a_share_of_the_baseline() -> None:
    within = verdict(equivalence("c", "close", "float", margin=0.01), higher=False)
    beyond = verdict(equivalence("c", "close", "float", margin=0.0005), higher=False)
    assert (within["verdict"], beyond["verdict"]) == ("holds", "fails")
    assert "0.01 of float's mean" in within["test"]


def test_equivalence_needs_two_folds() -> None:
    assert verdict(equivalence("c", "close", "float", margin=0.01), folds=1)["verdict"] == "untested"


def test_better_holds_only_in_the_metric_s_direction() -> None:
    assert verdict(better("c", "float", "far"))["verdict"] == "holds"
    assert verdict(better("c", "far", "float"))["verdict"] == "fails"
    assert verdict(better("c", "far", "float"), higher=False)["verdict"] == "holds"


def test_a_size_ratio_counts_bytes_that_exist_and_can_stand_for_float16() -> None:
    whole = verdict(size_ratio("c", "close", "float", at_least=4.0))
    half = verdict(size_ratio("c", "close", "float", at_least=4.0, baseline_share=0.5))
    assert (whole["verdict"], whole["value"]) == ("holds", 4.0)
    assert (half["verdict"], half["value"]) == ("fails", 2.0)


def test_a_claim_on_an_arm_that_did_not_run_is_untested_and_names_it() -> None:
    row = verdict(better("c", "ternary", "float"))
    assert row["verdict"] == "untested"
    assert "ternary" in row["reason"]


def accuracy(float_scores: list[float], other: list[float], test_n: int = 2000) -> Evidence:
    rows = [
        {"arm": arm, "seed": 0, "fold": fold, "scores": {"accuracy": score}}
        for arm, scores in (("float", float_scores), ("other", other))
        for fold, score in enumerate(scores)
    ]
    return Evidence(
        metric="accuracy",
        higher_is_better=True,
        arms=("float", "other"),
        seeds=(0,),
        folds=tuple(range(len(other))),
        data=rows,
        sizes=(8000, test_n),
        load_samples=lambda arm, fold, seed: {"target": np.arange(10) % 2},
    )


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (accuracy([0.91, 0.90], [0.91, 0.90]), "tell of no spread"),
        (accuracy([0.91, 0.90], [0.92, 0.90], test_n=100), "one of 100 test samples weighs more"),
        (accuracy([0.50, 0.501], [0.501, 0.499]), "no better than naming the largest class"),
    ],
)
def test_equal_scores_that_mean_nothing_are_untested(given: Evidence, reason: str) -> None:
    (found,) = judge([equivalence("c", "other", "float", margin=0.005)], given)
    assert found["verdict"] == "untested" and reason in found["reason"]


def test_equal_accuracies_that_mean_something_hold() -> None:
    given = accuracy([0.91, 0.90, 0.92], [0.9101, 0.8999, 0.9201])
    (found,) = judge([equivalence("c", "other", "float", margin=0.005)], given)
    assert found["verdict"] == "holds" and "pairs of folds" in found["test"]


@pytest.mark.parametrize(
    ("other", "expected"),
    [([0.93, 0.92, 0.94], "holds"), ([0.901, 0.892, 0.911], "holds"), ([0.88, 0.85, 0.91], "fails")],
)
def test_to_be_better_is_not_to_be_worse(other: list[float], expected: str) -> None:
    given = accuracy([0.91, 0.90, 0.92], [score + 1e-4 * place for place, score in enumerate(other)])
    (found,) = judge([not_worse("c", "other", "float", margin=0.02)], given)
    assert found["verdict"] == expected


def test_an_error_is_worse_where_it_is_larger() -> None:
    errors = evidence(higher=False)
    (lower,) = judge([not_worse("c", "far", "float", margin=0.01)], errors)
    (higher,) = judge([not_worse("c", "float", "far", margin=0.01)], errors)
    assert (lower["verdict"], higher["verdict"]) == ("holds", "fails")
