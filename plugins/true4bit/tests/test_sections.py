from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from qcore.methods import Evidence
from qcore_true4bit.sections import make_sections


def row(levels: Sequence[float], entropy: float) -> dict[str, Any]:
    layers = {str(place): {"levels": count, "entropy": entropy} for place, count in enumerate(levels)}
    return {"observed": {"layers": layers}}


def evidence(history: dict[tuple[str, int], list[dict[str, Any]]]) -> Evidence:
    arms = tuple(dict.fromkeys(arm for arm, _ in history))
    data = [{"arm": arm, "fold": 0, "seed": seed} for arm, seed in history]
    return Evidence(
        metric="accuracy",
        higher_is_better=True,
        arms=arms,
        seeds=(0, 1),
        folds=(0,),
        data=data,
        sizes=(8, 2),
        load_samples=lambda arm, fold, seed: {},
        load_history=lambda arm, fold, seed: history[arm, seed],
    )


def test_fewest_levels_and_mean_entropy_are_shown_by_epoch() -> None:
    jobs = {
        ("true4bit", 0): [row([15, 13], 2.0), row([15, 15], 3.0)],
        ("true4bit", 1): [row([14, 15], 2.5), row([15, 15], 3.0)],
    }
    levels, entropy = make_sections(evidence(jobs))
    (line,) = levels.figure["data"]
    assert line["name"] == "true4bit" and line["x"] == [1, 2] and line["y"] == [13.5, 15.0]
    assert entropy.figure["data"][0]["y"] == [pytest.approx(2.25), 3.0]


def test_a_job_that_ended_early_shortens_the_curve() -> None:
    jobs = {("lsq4", 0): [row([15], 2.0)] * 3, ("lsq4", 1): [row([15], 2.0)] * 2}
    assert len(make_sections(evidence(jobs))[0].figure["data"][0]["y"]) == 2


def test_float_arms_alone_have_no_section() -> None:
    assert make_sections(evidence({("float", 0): [{"epoch": 1}], ("float", 1): [{"epoch": 1}]})) == []
    assert make_sections(evidence({("true4bit", 0): [{"epoch": 1}], ("true4bit", 1): []})) == []
