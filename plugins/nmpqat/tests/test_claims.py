"""Claims and report, on evidence made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcore.methods import Evidence
from qcore.methods.claims import judge
from qcore_nmpqat.claims import list_claims
from qcore_nmpqat.sections import make_sections

ARMS = ("float", "nmpqat", "nmpqat_wa", "uniform2")


def layer(widths: list[int], demands: list[float]) -> dict[str, Any]:
    counts = {str(width): widths.count(width) for width in (1, 2, 4, 8)}
    return {
        "counts": counts,
        "bits": float(np.mean(widths)),
        "demand": {
            str(w): float(np.mean([d for v, d in zip(widths, demands, strict=True) if v == w])) for w in {*widths}
        },
        "widths": widths,
        "demands": demands,
    }


def history(demands: list[float], price: float = 0.0) -> list[dict[str, Any]]:
    told = {"bits": 1.5, "price": price, "weights": {"a": layer([1, 2, 1, 2], demands)}, "activations": {}}
    return [{"phase": "learn", "observed": told}, {"phase": "freeze", "observed": told}]


def evidence(
    observed: dict[str, float] | None = None, demands: list[float] | None = None, price: float = 0.0
) -> Evidence:
    seen = {"neuron_bits": 1.2, "weight_bits": 1.5, "at_lowest": 0.6, "activation_bits": 4.5, **(observed or {})}
    data = [
        {
            "arm": arm,
            "seed": 0,
            "fold": fold,
            "scores": {"accuracy": 0.9 + 0.001 * fold},
            "size": {"file_nbytes": 100 if arm == "nmpqat" else 150},
        }
        for arm in ARMS
        for fold in range(3)
    ]

    def samples(arm: str, fold: int, seed: int) -> dict[str, Any]:
        constant = {name: np.full(5, value) for name, value in seen.items()} if arm.startswith("nmpqat") else {}
        return {"target": np.arange(5) % 2, **constant}

    def rows(arm: str, fold: int, seed: int) -> list[dict[str, Any]]:
        return history(demands or [0.0, 1.0, 0.1, 0.8], price) if arm.startswith("nmpqat") else []

    return Evidence(
        metric="accuracy",
        higher_is_better=True,
        arms=ARMS,
        seeds=(0,),
        folds=(0, 1, 2),
        data=data,
        sizes=(200, 100),
        load_samples=samples,
        load_history=rows,
    )


def verdicts(found: Evidence, budget: float | None = None) -> dict[str, str]:
    return {row["id"]: row["verdict"] for row in judge(list_claims(budget), found)}


def test_what_is_said_of_widths() -> None:
    found = verdicts(evidence())
    names = ("widths_move", "most_stay_at_the_lowest", "few_bits", "activations_need_more", "demand_tells_where")
    assert [found[name] for name in names] == ["holds"] * 5


@pytest.mark.parametrize(
    ("observed", "claim"),
    [
        ({"at_lowest": 1.0}, "widths_move"),
        ({"at_lowest": 0.4}, "most_stay_at_the_lowest"),
        ({"neuron_bits": 2.5}, "few_bits"),
        ({"activation_bits": 1.0}, "activations_need_more"),
    ],
)
def test_each_of_them_can_fail(observed: dict[str, float], claim: str) -> None:
    assert verdicts(evidence(observed))[claim] == "fails"


def test_demand_at_the_wrong_neurons_fails() -> None:
    assert verdicts(evidence(demands=[1.0, 0.0, 0.9, 0.1]))["demand_tells_where"] == "fails"


@pytest.mark.parametrize(("budget", "verdict"), [(1.54, "holds"), (1.6, "fails"), (1.4, "fails")])
def test_a_budget_is_met_within_its_margin(budget: float, verdict: str) -> None:
    assert verdicts(evidence(), budget)["budget_is_met"] == verdict
    assert "budget_is_met" not in verdicts(evidence())


def test_arms_that_are_not_there_leave_claims_untested() -> None:
    found = verdicts(evidence())
    assert found["beats_oracle"] == found["beats_ternary"] == "untested"
    assert found["file_is_smaller_than_2_bits"] == "holds"


def test_sections_say_what_moved_the_widths() -> None:
    free, priced = (make_sections(evidence(price=price)) for price in (0.0, 0.3))
    assert [section.title for section in free][:2] == ["Widths over epochs", "How many neurons have which width"]
    assert "Nothing but the loss" in free[0].text
    assert "keep the budget a bit cost up to 0.3" in priced[0].text
    heat = free[2].figure["data"][0]
    assert heat["z"] == [[1, 1, 2, 2]]


def test_a_price_in_some_arms_is_said_to_be_theirs() -> None:
    made = evidence()
    prices = {"nmpqat": 0.0, "nmpqat_wa": 0.3}
    told = {arm: history([0.0, 1.0, 0.1, 0.8], price) for arm, price in prices.items()}
    object.__setattr__(made, "load_history", lambda arm, fold, seed: told.get(arm, []))
    assert "keep the budget of nmpqat_wa a bit cost up to 0.3" in make_sections(made)[0].text


def test_without_histories_there_are_no_sections() -> None:
    bare = evidence()
    object.__setattr__(bare, "load_history", lambda arm, fold, seed: [])
    assert make_sections(bare) == []
