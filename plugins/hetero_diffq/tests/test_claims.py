"""Claims, on evidence made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcore.methods import Evidence
from qcore.methods.claims import judge
from qcore_hetero_diffq.claims import list_claims, uniform_twin
from qcore_hetero_diffq.config import HeteroDiffqConfig

LABELS = ("1_6bit", "3bit")
SCORES = {
    "float": 0.9,
    "float_tuned": 0.91,
    "uniform2": 0.80,
    "uniform3": 0.86,
    "mixed_1_6bit": 0.85,
    "mixed_3bit": 0.905,
    "tensor_1_6bit": 0.82,
    "ste_1_6bit": 0.83,
    "paper_1_6bit": 0.81,
    "chosen_1_6bit": 0.80,
    "lsq_1_6bit": 0.79,
}
SIZES = {"mixed_1_6bit": 990, "mixed_3bit": 1990}


def evidence(
    scores: dict[str, float] | None = None,
    sizes: dict[str, int] | None = None,
    taken: dict[str, float] | None = None,
    *,
    limit_of: str = "weights",
    counts_file: bool = True,
    widths: tuple[str, ...] = ("1", "4"),
    without: tuple[str, ...] = (),
) -> Evidence:
    """Return the evidence of four folds; ``mixed_3bit`` may take 2000 bytes, other budgeted arms 1000."""
    found = {arm: score for arm, score in {**SCORES, **(scores or {})}.items() if arm not in without}
    size = {**dict.fromkeys(found, 985), **SIZES, **(sizes or {})}
    data = [
        {
            "arm": arm,
            "seed": 0,
            "fold": fold,
            "scores": {"accuracy": score + 0.001 * np.sin(fold + len(arm)), "ece": 0.01},
            "size": {"file_nbytes": size[arm]},
        }
        for arm, score in found.items()
        for fold in range(4)
    ]

    def samples(arm: str, fold: int, seed: int) -> dict[str, Any]:
        base = {"target": np.arange(5) % 2, "fold": np.full(5, fold), "seed": np.full(5, seed), "index": np.arange(5)}
        if arm.startswith(("float", "uniform", "lsq")):
            return base
        limit = 2000 if arm == "mixed_3bit" else 1000
        told = {
            f"limit_{limit_of}": limit,
            f"taken_{limit_of}": (taken or {}).get(arm, 0.99 * limit),
            "counts_file": float(counts_file),
        }
        return base | {name: np.full(5, float(value)) for name, value in told.items()}

    def rows(arm: str, fold: int, seed: int) -> list[dict[str, Any]]:
        return [{"phase": "tune", "observed": {"counts": {"a": dict.fromkeys(widths, 3), "b": {widths[0]: 5}}}}]

    return Evidence(
        metric="accuracy",
        higher_is_better=True,
        arms=tuple(found),
        seeds=(0,),
        folds=(0, 1, 2, 3),
        data=data,
        sizes=(200, 100),
        load_samples=samples,
        load_history=rows,
    )


def judged(found: Evidence, **options: Any) -> dict[str, dict[str, Any]]:
    config = HeteroDiffqConfig(**{"budgets": ("1.6bit", "3bit"), **options})
    return {row["id"]: row for row in judge(list_claims(LABELS, LABELS[0], "paper", config), found)}


def verdicts(found: Evidence, **options: Any) -> dict[str, str]:
    return {name: row["verdict"] for name, row in judged(found, **options).items()}


def test_where_all_is_well_all_holds() -> None:
    found = verdicts(evidence())
    assert set(found.values()) == {"holds"}, found
    assert {"beats_uniform2", "beats_uniform3", "channels_help", "gradients_help", "penalty_help", "lsq_help"} <= set(
        found
    )


def test_a_file_that_is_a_byte_too_large_is_told() -> None:
    row = judged(evidence(sizes={"ste_1_6bit": 1001}))["budgets_are_kept"]
    assert row["verdict"] == "fails" and row["value"] == pytest.approx(1.001)
    assert "ste_1_6bit, fold 0, seed 0, weights" in row["reason"]


@pytest.mark.parametrize(("limit_of", "counts_file"), [("activations", True), ("both", True), ("weights", False)])
def test_what_is_no_file_is_judged_by_what_was_counted(limit_of: str, counts_file: bool) -> None:
    large = {arm: 5000 for arm in SCORES}
    kept = evidence(sizes=large, limit_of=limit_of, counts_file=counts_file)
    assert verdicts(kept)["budgets_are_kept"] == "holds"
    passed = evidence(taken={"mixed_3bit": 2000.5}, limit_of=limit_of, counts_file=counts_file)
    assert verdicts(passed)["budgets_are_kept"] == "fails"


def test_what_is_estimated_from_above_counts_where_it_is_more() -> None:
    assert verdicts(evidence(taken={"mixed_3bit": 2001}))["budgets_are_kept"] == "fails"


def test_a_budget_that_is_not_spent_is_told() -> None:
    row = judged(evidence(sizes={"mixed_3bit": 1900}, taken={"mixed_3bit": 1900}))["budgets_are_spent"]
    assert row["verdict"] == "fails" and row["value"] == pytest.approx(0.95)


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"widths": ("4",)}, "widths_differ"),
        ({"scores": {"mixed_3bit": 0.84}}, "more_bytes_help"),
        ({"scores": {"uniform2": 0.87}}, "beats_uniform2"),
        ({"scores": {"tensor_1_6bit": 0.87}}, "channels_help"),
        ({"scores": {"ste_1_6bit": 0.87}}, "gradients_help"),
        ({"scores": {"paper_1_6bit": 0.87}}, "penalty_help"),
        ({"scores": {"chosen_1_6bit": 0.87}}, "learning_help"),
        ({"scores": {"lsq_1_6bit": 0.87}}, "lsq_help"),
        ({"scores": {"mixed_3bit": 0.88}}, "close_to_float"),
    ],
)
def test_each_claim_can_fail(changes: dict[str, Any], claim: str) -> None:
    assert verdicts(evidence(**changes))[claim] == "fails"


def test_what_was_not_run_is_untested() -> None:
    found = verdicts(evidence(without=("float_tuned", "uniform2", "ste_1_6bit", "mixed_3bit")))
    untested = {name for name, verdict in found.items() if verdict == "untested"}
    expected = {"beats_uniform2", "beats_uniform3", "gradients_help", "more_bytes_help", "close_to_float"}
    assert expected <= untested
    assert found["budgets_are_kept"] == "holds"


def test_without_a_budget_nothing_is_kept() -> None:
    arms = tuple(arm for arm in SCORES if not arm.startswith(("float", "uniform", "lsq")))
    found = verdicts(evidence(without=arms))
    assert found["budgets_are_kept"] == found["budgets_are_spent"] == "untested"


@pytest.mark.parametrize(
    ("label", "options", "twin"),
    [
        ("1_6bit", {}, "uniform2"),
        ("3bit", {}, "uniform3"),
        ("8bit", {}, "uniform8"),
        ("5bit", {}, None),
        ("2bit", {}, None),
        ("120kb", {}, None),
        ("3bit", {"of": "both"}, None),
        ("3bit", {"uniform": (2,)}, None),
    ],
)
def test_a_budget_has_a_twin_where_one_width_for_all_takes_as_many_bytes(
    label: str, options: dict[str, Any], twin: str | None
) -> None:
    assert uniform_twin(label, HeteroDiffqConfig(**options)) == twin
