from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from qcore.runs import Run
from qcore.runs.summary import paired_differences

Start = Callable[..., Run]


def test_the_summary_has_the_keys_that_the_design_promises(finished: Run) -> None:
    summary = finished.summary
    assert summary["schema"] == 1
    assert {"plugin", "task", "metric", "seeds", "folds", "arms", "tests", "claims"} <= set(summary)
    for arm in summary["arms"].values():
        assert {"score", "nbytes", "effective_bits", "latency_us", "energy_j"} <= set(arm)
        assert {"mean", "std", "values"} == set(arm["score"])
    for claim in summary["claims"]:
        assert {"id", "statement", "verdict", "value", "test"} <= set(claim)
        assert claim["verdict"] in {"holds", "fails", "untested"}
    assert list(summary["arms"]) == ["float", "ptq"]
    assert summary["baseline"] == "float"


def test_scores_are_those_of_the_jobs_by_seed_then_fold(finished: Run) -> None:
    values = finished.summary["arms"]["float"]["score"]
    expected = [row["scores"]["f1_weighted"] for row in finished.results() if row["arm"] == "float"]
    assert values["values"] == expected
    assert len(expected) == 4
    assert values["mean"] == pytest.approx(np.mean(expected))
    assert values["std"] == pytest.approx(np.std(expected, ddof=1))


def test_latency_is_measured_at_both_batch_sizes_and_modelled_energy_names_its_source(finished: Run) -> None:
    for arm in finished.summary["arms"].values():
        assert set(arm["latency_us"]) == {"1", "64"}
        assert arm["latency_us"]["1"]["calls"] == 2
        assert arm["latency_us"]["64"]["p50"] > 0
        assert "Horowitz" in arm["modelled_energy_j"]["source"]
    arms = finished.summary["arms"]
    assert arms["ptq"]["modelled_energy_j"]["value"] < arms["float"]["modelled_energy_j"]["value"]


def test_latency_that_was_not_asked_for_is_unknown_with_a_reason(tiny: Start) -> None:
    arm = tiny("float").summary["arms"]["float"]
    assert arm["energy_j"]["value"] is None and arm["energy_j"]["reason"]
    assert arm["latency_us"]["reason"]


def test_every_arm_but_the_baseline_is_tested_against_it(finished: Run) -> None:
    tests = finished.summary["tests"]
    assert [(row["arm"], row["baseline"]) for row in tests] == [("ptq", "float")]
    arms = finished.summary["arms"]
    assert tests[0]["difference"] == pytest.approx(arms["ptq"]["score"]["mean"] - arms["float"]["score"]["mean"])


def test_p_values_are_adjusted_over_the_arms() -> None:
    generator = np.random.default_rng(0)
    differences = [generator.normal(mean, 0.01, size=(2, 5)) for mean in (0.05, 0.0, 0.05)]
    rows = paired_differences(differences, (80, 20))
    raw, adjusted = [row["p_value"] for row in rows], [row["p_adjusted"] for row in rows]
    assert adjusted[raw.index(min(raw))] == pytest.approx(3 * min(raw))
    assert all(a >= p for a, p in zip(adjusted, raw, strict=True))


def test_one_value_has_no_spread_and_no_test(tiny: Start, framework: object) -> None:
    rows = paired_differences([np.array([[0.1]])], (80, 20))
    assert rows[0]["p_value"] is None and rows[0]["reason"]
