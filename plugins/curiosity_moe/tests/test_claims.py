from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcore.methods import Evidence, judge
from qcore_curiosity_moe.claims import flip_rate, make_claims, uncertainty_ranks
from qcore_curiosity_moe.sections import _largest_share, make_sections

ARMS = ("float", "int4", "moe_softmax", "moe_curiosity", "cascade")
FOLDS = 5


def make_evidence(
    scores: dict[str, np.ndarray],
    *,
    samples: dict[str, Any] | None = None,
    seeds: int = 5,
    arms: tuple[str, ...] = ARMS,
) -> Evidence:
    sizes = {"float": 4_000_000, "int4": 550_000}
    data = [
        {
            "arm": arm,
            "seed": seed,
            "fold": fold,
            "scores": {"f1_weighted": float(scores[arm][seed, fold])},
            "size": {"file_nbytes": sizes.get(arm, 1), "parameters": 1_000_000},
        }
        for arm in arms
        for seed in range(seeds)
        for fold in range(FOLDS)
    ]

    def load(arm: str, fold: int, seed: int) -> dict[str, Any]:
        found = dict(samples or {})
        rows = len(next(iter(found.values()))) if found else 0
        return {**found, "fold": np.full(rows, fold), "seed": np.full(rows, seed)}

    return Evidence(
        metric="f1_weighted",
        higher_is_better=True,
        arms=arms,
        seeds=tuple(range(seeds)),
        folds=tuple(range(FOLDS)),
        data=data,
        sizes=(1000, 250),
        load_samples=load,
    )


def make_scores(seeds: int = 5, *, curious_spread: float = 0.002, **shift: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    folds = rng.normal(0.9, 0.02, FOLDS)
    spread = {"moe_curiosity": curious_spread}
    return {arm: folds + shift.get(arm, 0.0) + rng.normal(0, spread.get(arm, 0.002), (seeds, FOLDS)) for arm in ARMS}


def make_samples(slope: float) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    uncertainty = rng.random(300)
    bits = np.where(slope * uncertainty + rng.random(300) > slope * 0.5 + 0.5, 8.0, 4.0)
    expert = (bits == 8).astype(int)
    return {
        "uncertainty": uncertainty,
        "expert_bits": bits,
        "expert": expert,
        "expert_without_curiosity": np.where(np.arange(300) < 30, 1 - expert, expert),
        "prediction": np.zeros(300),
        "target": (rng.random(300) < uncertainty).astype(int),
    }


def verdicts(evidence: Evidence) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in judge(make_claims(), evidence)}


def test_four_bits_equal_float_when_they_do_and_not_when_they_lose_a_margin() -> None:
    assert verdicts(make_evidence(make_scores()))["q4_equals_float"]["verdict"] == "holds"
    found = verdicts(make_evidence(make_scores(int4=-0.03)))["q4_equals_float"]
    assert found["verdict"] == "fails"
    assert "TOST" in found["test"]
    assert "0.01" in found["test"]
    assert "Nadeau-Bengio" in found["test"]


def test_compression_counts_real_bytes_against_both_float_formats() -> None:
    found = verdicts(make_evidence(make_scores()))
    assert found["q4_compression_fp32"]["value"] == pytest.approx(4_000_000 / 550_000)
    assert found["q4_compression_fp32"]["verdict"] == "holds"
    assert found["q4_compression_fp16"]["value"] == pytest.approx(2_000_000 / 550_000)
    assert found["q4_compression_fp16"]["verdict"] == "fails"


@pytest.mark.parametrize(("slope", "verdict"), [(1.0, "holds"), (0.0, "fails"), (-1.0, "fails")])
def test_routing_to_high_bits_needs_a_positive_correlation(slope: float, verdict: str) -> None:
    found = verdicts(make_evidence(make_scores(), samples=make_samples(slope)))["routing_to_high_bits"]
    assert found["verdict"] == verdict
    assert found["p_adjusted"] is not None


def test_routing_all_samples_alike_is_no_routing() -> None:
    samples = {**make_samples(1.0), "expert_bits": np.full(300, 8.0)}
    found = verdicts(make_evidence(make_scores(), samples=samples))["routing_to_high_bits"]
    assert found["verdict"] == "fails"
    assert found["reason"] == "every sample went to 8 bits"


def test_the_flip_rate_is_reported() -> None:
    evidence = make_evidence(make_scores(), samples=make_samples(1.0))
    assert flip_rate(evidence) == pytest.approx(0.1)
    assert verdicts(evidence)["curiosity_changes_routes"]["value"] == pytest.approx(0.1)


def test_stability_is_untested_below_five_seeds_and_decided_from_five_on() -> None:
    few = verdicts(make_evidence(make_scores(2), seeds=2))["curiosity_is_stable"]
    assert few["verdict"] == "untested"
    assert "--seeds 5" in few["reason"]
    steady = verdicts(make_evidence(make_scores(curious_spread=0.0002)))["curiosity_is_stable"]
    assert steady["verdict"] == "holds"
    low, high = steady["value"]["interval"]
    assert low < steady["value"]["log_variance_ratio"] < high < 0
    wild = verdicts(make_evidence(make_scores(curious_spread=0.02)))["curiosity_is_stable"]
    assert wild["verdict"] == "fails"
    assert wild["value"]["log_variance_ratio"] > 0


def test_the_mixture_is_compared_with_simpler_rules_whichever_way_it_goes() -> None:
    better = verdicts(make_evidence(make_scores(moe_curiosity=0.03)))
    worse = verdicts(make_evidence(make_scores(moe_curiosity=-0.03)))
    for claim in ("moe_beats_softmax_routing", "moe_beats_q4", "moe_beats_cascade"):
        assert better[claim]["verdict"] == "holds"
        assert worse[claim]["verdict"] == "fails"
        assert worse[claim]["value"] < 0


def test_claims_of_absent_arms_are_untested_with_the_reason() -> None:
    found = verdicts(make_evidence(make_scores(), arms=("float", "int4")))
    assert found["moe_beats_q4"]["verdict"] == "untested"
    assert "moe_curiosity" in found["moe_beats_q4"]["reason"]
    assert found["routing_to_high_bits"]["verdict"] == "untested"
    assert found["q4_equals_float"]["verdict"] == "holds"


def test_uncertainty_is_ranked_within_each_network() -> None:
    samples = {
        "uncertainty": np.array([1.0, 2.0, 300.0, 100.0]),
        "fold": np.array([0, 0, 1, 1]),
        "seed": np.array([0, 0, 0, 0]),
    }
    assert uncertainty_ranks(samples).tolist() == [0.5, 1.0, 1.0, 0.5]


def test_the_report_shows_bits_and_errors_by_uncertainty() -> None:
    (section,) = make_sections(make_evidence(make_scores(), samples=make_samples(1.0)))
    assert "10.0 % of the held-out samples" in section.text
    bits = next(line for line in section.figure["data"] if line["name"] == "moe_curiosity: bits")
    assert bits["y"][-1] > bits["y"][0]
    wrong = next(line for line in section.figure["data"] if line["name"] == "moe_curiosity: wrong")
    assert wrong["y"][-1] > wrong["y"][0]


def test_the_expert_most_used_is_each_network_s_own() -> None:
    samples = {
        "expert": np.array([0, 0, 0, 1, 1, 1, 1, 0]),
        "fold": np.array([0, 0, 0, 0, 1, 1, 1, 1]),
        "seed": np.zeros(8, dtype=int),
    }
    assert _largest_share(samples) == 0.75, "all samples together would say a half"


def test_the_report_has_no_such_section_where_nothing_is_routed() -> None:
    assert make_sections(make_evidence(make_scores(), arms=("float", "int4"))) == []
