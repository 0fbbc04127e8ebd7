"""The method's part of the report, on evidence made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcore.methods import Evidence
from qcore_hetero_diffq.sections import make_sections

ARMS = {"float": 4000, "float_tuned": 4000, "uniform3": 900, "mixed_3bit": 890, "mixed_2bit": 640, "ste_2bit": 640}
WIDTHS = {"a": [1, 4, 2], "b": [8, 3]}


def evidence(
    arms: tuple[str, ...] = tuple(ARMS), *, histories: bool = True, problem: str = "classification"
) -> Evidence:
    data = [
        {
            "arm": arm,
            "seed": 0,
            "fold": fold,
            "scores": {"accuracy": 0.9 - 0.1 * fold, "ece": 0.02},
            "size": {"file_nbytes": ARMS[arm]},
        }
        for arm in arms
        for fold in (0, 1)
    ]

    def samples(arm: str, fold: int, seed: int) -> dict[str, Any]:
        right = np.arange(6) % 3
        told = {"index": np.arange(6), "fold": np.full(6, fold), "seed": np.full(6, seed), "target": right}
        told["prediction"] = np.where(np.arange(6) < (6 if arm == "float" else 4), right, 2 - right)
        return told | ({"confidence": np.full(6, 0.8)} if problem == "classification" else {})

    def rows(arm: str, fold: int, seed: int) -> list[dict[str, Any]]:
        if not histories or not arm.startswith("mixed"):
            return []
        told: list[dict[str, Any]] = [{"bits": bits + fold, "counts": {}} for bits in (4.0, 3.0, 2.0)]
        told[0]["widths"], told[1]["widths"] = {"a": [8, 8, 8]}, WIDTHS  # the mixed phase's, and then those that stand
        return [{"phase": "mixed", "observed": row} for row in told]

    return Evidence(
        metric="accuracy",
        higher_is_better=True,
        arms=arms,
        seeds=(0,),
        folds=(0, 1),
        data=data,
        sizes=(12, 6),
        load_samples=samples,
        load_history=rows,
    )


def sections(found: Evidence) -> dict[str, Any]:
    return {section.title: section for section in make_sections(found, ("2bit", "3bit"))}


def test_there_are_all_of_them() -> None:
    assert list(sections(evidence())) == [
        "Score against bytes",
        "Widths over epochs",
        "Width of each row",
        "What it forgets: samples",
        "What it forgets: classes",
    ]


def test_the_frontier_rises_through_the_budgets() -> None:
    figure = sections(evidence())["Score against bytes"].figure
    lines = {line["name"]: line for line in figure["data"]}
    assert lines["learned widths"]["text"] == ["mixed_2bit", "mixed_3bit"]
    assert lines["learned widths"]["x"] == [0.64, 0.89]
    assert lines["learned widths"]["y"] == pytest.approx([0.85, 0.85])
    assert lines["one width for all"]["text"] == ["uniform3"] and lines["ablations"]["text"] == ["ste_2bit"]
    assert len(figure["layout"]["shapes"]) == 2


def test_widths_are_means_over_jobs_and_the_map_is_of_the_first() -> None:
    found = sections(evidence())
    line, _ = found["Widths over epochs"].figure["data"]
    assert line["name"] == "mixed_2bit" and line["y"] == [4.5, 3.5, 2.5] and line["x"] == [1, 2, 3]
    (heat,) = found["Width of each row"].figure["data"]
    assert heat["z"] == [[1, 2, 4], [3, 8, None]] and heat["y"] == ["a", "b"]
    assert "mixed_2bit" in found["Width of each row"].text


def test_what_is_forgotten_is_told_in_points() -> None:
    found = sections(evidence())
    assert "mixed_2bit 16.67 %" in found["What it forgets: samples"].text
    (recall,) = found["What it forgets: classes"].figure["data"]
    assert recall["y"] == ["mixed_2bit", "mixed_3bit"] and recall["x"] == ["0", "1", "2"]
    assert recall["z"][0] == pytest.approx([0, 0, -50])


@pytest.mark.parametrize(
    ("found", "titles"),
    [
        (evidence(histories=False), ["Score against bytes", "What it forgets: samples", "What it forgets: classes"]),
        (evidence(problem="regression"), ["Score against bytes", "Widths over epochs", "Width of each row"]),
        (evidence(("float", "uniform3")), ["Score against bytes"]),
        (evidence(("float", "float_tuned")), []),
        (evidence(("mixed_2bit",)), ["Score against bytes", "Widths over epochs", "Width of each row"]),
    ],
    ids=["no histories", "a regression", "no budget", "float alone", "no float"],
)
def test_what_the_evidence_does_not_allow_is_left_out(found: Evidence, titles: list[str]) -> None:
    assert list(sections(found)) == titles
