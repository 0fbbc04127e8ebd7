"""What networks forget, on samples made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcore.methods import Evidence
from qcore_hetero_diffq.forgetting import look_back, overlaps

TARGETS = np.array([0, 0, 1, 1, 2, 2])
ROWS = np.arange(6)


def evidence(predictions: dict[str, list[int]], *, confidence: bool = True, shuffled: bool = False) -> Evidence:
    """Return the evidence of two folds in which each arm predicts the same."""
    data = [
        {"arm": arm, "seed": 0, "fold": fold, "scores": {"accuracy": 0.5, "ece": 0.01 * (fold + 1)}, "size": {}}
        for arm in predictions
        for fold in (0, 1)
    ]

    def samples(arm: str, fold: int, seed: int) -> dict[str, Any]:
        order = ROWS[::-1] if shuffled and arm != "float" else ROWS
        told = {
            "index": 6 * fold + ROWS[order],
            "fold": np.full(6, fold),
            "seed": np.zeros(6, dtype=int),
            "target": TARGETS[order],
            "prediction": np.array(predictions[arm])[order],
        }
        return {**told, "confidence": np.full(6, 0.9)} if confidence else told

    return Evidence(
        metric="accuracy",
        higher_is_better=True,
        arms=tuple(predictions),
        seeds=(0,),
        folds=(0, 1),
        data=data,
        sizes=(12, 6),
        load_samples=samples,
    )


PREDICTIONS = {
    "float": [0, 0, 1, 1, 2, 0],  # five of six are right
    "mixed_2bit": [0, 0, 0, 0, 2, 2],  # forgets 2 and 3, and gets 5 right
    "mixed_3bit": [0, 0, 1, 0, 2, 0],  # forgets 3
}


@pytest.mark.parametrize("shuffled", [False, True])
def test_samples_that_only_float_gets_right_are_forgotten(shuffled: bool) -> None:
    found = look_back(evidence(PREDICTIONS, shuffled=shuffled), ["mixed_2bit", "mixed_3bit"])
    assert found is not None
    assert found.arms == ("mixed_2bit", "mixed_3bit") and found.classes == ("0", "1", "2")
    assert found.forgotten == pytest.approx((2 / 6, 1 / 6))
    np.testing.assert_allclose(found.recall_change, [[0, -1, 0.5], [0, -0.5, 0]])
    np.testing.assert_allclose(found.overlap, [[1, 0.5], [0.5, 1]])
    assert found.calibration == pytest.approx({"float": 0.015, "mixed_2bit": 0.015, "mixed_3bit": 0.015})


def test_chance_is_what_sets_drawn_from_what_float_gets_right_would_share() -> None:
    found = look_back(evidence(PREDICTIONS), ["mixed_2bit", "mixed_3bit"])
    assert found is not None
    shared = 4 * 2 / 10
    assert found.chance == pytest.approx(shared / (4 + 2 - shared))


@pytest.mark.parametrize(
    ("predictions", "arms", "confidence"),
    [
        ({"mixed_2bit": [0] * 6}, ["mixed_2bit"], True),
        (PREDICTIONS, ["mixed_8bit"], True),
        (PREDICTIONS, [], True),
        (PREDICTIONS, ["mixed_2bit"], False),
    ],
    ids=["no float", "no such arm", "no arm", "a regression"],
)
def test_where_it_cannot_be_said_it_is_not(
    predictions: dict[str, list[int]], arms: list[str], confidence: bool
) -> None:
    assert look_back(evidence(predictions, confidence=confidence), arms) is None


def test_overlaps_of_no_and_of_equal_sets() -> None:
    lost = np.array([[False, False, False], [False, False, False], [True, True, False]])
    index, chance = overlaps(lost, 3)
    np.testing.assert_allclose(index, [[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    assert chance == 0
    assert overlaps(lost[:1], 3)[1] == 0


def test_chance_is_what_drawing_gives() -> None:
    generator = np.random.default_rng(0)
    drawn = [[generator.permutation(60) < count for count in (20, 30)] for _ in range(2000)]
    mean = np.mean([overlaps(np.array(pair), 60)[0][0, 1] for pair in drawn])
    assert overlaps(np.array(drawn[0]), 60)[1] == pytest.approx(mean, rel=0.02)
