from __future__ import annotations

import numpy as np
import pytest
import torch

import qcore
from qcore.methods import Evidence, Verdict
from qcore.nn import build_model
from qcore_bitnet.claims import list_claims, observe_ternary, paper_codes

ARMS = ("float", "int8", "ternary", "binary", "ptq2", "ternary_converted")


def result(arm: str, fold: int, *, equal: bool = True, nbytes: int = 1000, score: float = 0.9) -> dict[str, object]:
    packed = {"equal": equal, "max_abs_difference": 0.0 if equal else 0.5, "bound": 0.0}
    size = {"file_nbytes": nbytes}
    return {"arm": arm, "fold": fold, "seed": 0, "packed": packed, "size": size, "scores": {"f1_weighted": score}}


def evidence(samples: dict[str, float], rows: list[dict[str, object]] | None = None) -> Evidence:
    data = rows or [result(arm, fold) for arm in ARMS for fold in range(3)]
    arrays = {name: np.full(4, value) for name, value in samples.items()}
    return Evidence(
        metric="f1_weighted",
        higher_is_better=True,
        arms=ARMS,
        seeds=(0,),
        folds=(0, 1, 2),
        data=data,
        sizes=(80, 20),
        load_samples=lambda arm, fold, seed: arrays,
    )


def verdict(claim_id: str, given: Evidence) -> Verdict:
    claim = next(claim for claim in list_claims() if claim.id == claim_id)
    return claim.check(given)


def ternary_model(**options: object) -> torch.nn.Module:
    model = build_model("core/mlp", {"in_features": 7, "out_features": 3, "hidden": (8, 5)})
    return qcore.quantize(model, {"head": None, "type:Linear": {"weight": {"quantizer": "bitnet/ternary", **options}}})


def test_the_papers_formula_is_written_down_apart_from_the_quantizer() -> None:
    assert paper_codes(torch.tensor([[1.0, -1.0, 3.0, -3.0]])).tolist() == [[0.0, 0.0, 1.0, -1.0]]


def test_a_ternary_network_has_no_wrong_code_and_the_bytes_that_are_due() -> None:
    found = observe_ternary(ternary_model())
    assert found["wrong_codes"] == 0
    # 8 rows of 7 in 2 bytes, 5 rows of 8 in 2 bytes, two scales: 34 bytes for 96 weights.
    assert found["bits"] == found["bits_due"] == pytest.approx(8 * 34 / 96)


def test_scales_of_rows_are_counted_and_leave_the_formula_untested() -> None:
    found = observe_ternary(ternary_model(granularity="row"))
    assert found["wrong_codes"] == -1
    assert found["bits"] == found["bits_due"] == pytest.approx(8 * (16 + 10 + 4 * 13) / 96)


def test_a_network_without_ternary_layers_tells_nothing() -> None:
    assert observe_ternary(torch.nn.Linear(2, 2)) == {}


@pytest.mark.parametrize(("wrong", "expected"), [(0.0, "holds"), (3.0, "fails"), (-1.0, "untested")])
def test_one_wrong_code_makes_the_claim_fail(wrong: float, expected: str) -> None:
    assert verdict("codes_follow_the_formula", evidence({"wrong_codes": wrong})).verdict == expected


def test_one_arm_whose_packed_logits_differ_makes_the_claim_fail() -> None:
    rows = [result(arm, fold, equal=(arm, fold) != ("binary", 1)) for arm in ARMS for fold in range(3)]
    found = verdict("packed_equals_eval", evidence({}, rows))
    assert found.verdict == "fails" and found.value == 0.5 and "binary, fold 1" in str(found.reason)
    assert verdict("packed_equals_eval", evidence({})).verdict == "holds"


def test_more_bytes_than_are_due_make_the_claim_fail() -> None:
    assert verdict("five_weights_a_byte", evidence({"bits": 1.63, "bits_due": 1.63})).verdict == "holds"
    assert verdict("five_weights_a_byte", evidence({"bits": 2.0, "bits_due": 1.63})).verdict == "fails"


@pytest.mark.parametrize(("float_nbytes", "half", "full"), [(5200, "holds", "holds"), (5199, "fails", "fails")])
def test_file_sizes_are_compared_with_both_float_formats(float_nbytes: int, half: str, full: str) -> None:
    rows = [result(arm, fold, nbytes=float_nbytes if arm == "float" else 1000) for arm in ARMS for fold in range(3)]
    assert verdict("file_is_smaller_than_float16", evidence({}, rows)).verdict == half
    assert verdict("file_is_smaller_than_float32", evidence({}, rows)).verdict == full


def test_a_ternary_arm_that_scores_worse_than_ptq_fails() -> None:
    scores = {"ptq2": (0.95, 0.96, 0.94), "ternary": (0.90, 0.92, 0.91)}
    rows = [result(arm, fold, score=scores.get(arm, (0.9,) * 3)[fold]) for arm in ARMS for fold in range(3)]
    assert verdict("ternary_beats_ptq2", evidence({}, rows)).verdict == "fails"


def test_claims_need_no_more_than_the_methods_arms() -> None:
    samples = {"wrong_codes": 0.0, "bits": 1.6, "bits_due": 1.6}
    rows = [result(arm, fold, score=0.9 + 0.01 * fold * (arm == "float")) for arm in ARMS for fold in range(3)]
    for claim in list_claims():
        claim.check(evidence(samples, rows))
