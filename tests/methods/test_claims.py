from __future__ import annotations

import numpy as np
import pytest

from qcore.methods import Claim, Evidence, MissingEvidenceError, Verdict, judge


def evidence() -> Evidence:
    return Evidence(
        metric="accuracy",
        higher_is_better=True,
        arms=("float",),
        seeds=(0,),
        folds=(0,),
        data=[],
        sizes=(8, 2),
        load_samples=lambda arm, fold, seed: {},
    )


def claim(name: str, verdict: Verdict, family: str = "one") -> Claim:
    return Claim(name, f"statement of {name}", family, lambda _: verdict)


def with_p(p: float) -> Verdict:
    return Verdict(verdict=None, value=1.0, test="t", p_value=p, needs_significance=True)


def test_p_values_of_one_family_are_corrected_together_and_decide() -> None:
    rows = judge([claim("a", with_p(0.03)), claim("b", with_p(0.01)), claim("c", with_p(0.04), "other")], evidence())
    assert [row["p_adjusted"] for row in rows] == pytest.approx([0.03, 0.02, 0.04])
    assert [row["verdict"] for row in rows] == ["holds", "holds", "holds"]
    rows = judge([claim("a", with_p(0.03)), claim("b", with_p(0.04))], evidence())
    assert [row["verdict"] for row in rows] == ["fails", "fails"]
    assert "0.06" in rows[0]["reason"]


def test_a_verdict_that_failed_stays_failed_whatever_its_p_value() -> None:
    failed = Verdict(verdict="fails", value=-1.0, test="t", p_value=1e-9, needs_significance=True)
    assert judge([claim("a", failed)], evidence())[0]["verdict"] == "fails"


def test_a_verdict_without_a_test_needs_no_p_value() -> None:
    assert judge([claim("a", Verdict(verdict="holds", value=2.0, test="ratio"))], evidence())[0]["verdict"] == "holds"


def test_a_test_without_a_p_value_leaves_the_claim_untested() -> None:
    row = judge([claim("a", Verdict(verdict=None, value=None, test="t", needs_significance=True))], evidence())[0]
    assert (row["verdict"], row["p_adjusted"]) == ("untested", None)


@pytest.mark.parametrize("error", [MissingEvidenceError("no such arm"), ValueError("bad"), ZeroDivisionError("bad")])
def test_a_check_that_raises_leaves_its_claim_untested_and_the_others_alone(error: Exception) -> None:
    def broken(_: Evidence) -> Verdict:
        raise error

    rows = judge([Claim("broken", "it breaks", "one", broken), claim("fine", with_p(0.01))], evidence())
    assert [row["verdict"] for row in rows] == ["untested", "holds"]
    assert str(error) in rows[0]["reason"]
    assert rows[1]["p_adjusted"] == 0.01, "an untested claim takes no part in the correction"


def test_numpy_numbers_in_a_value_become_json_data() -> None:
    import json

    value = {"rho": np.float64(0.5), "counts": np.array([1, 2])}
    row = judge([claim("a", Verdict(verdict="holds", value=value, test="t"))], evidence())[0]
    assert json.loads(json.dumps(row))["value"] == {"rho": 0.5, "counts": [1, 2]}
