from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import qcore
from qcore.export import to_bytes
from qcore.methods import Evidence, Verdict
from qcore.nn import build_model
from qcore_true4bit.claims import list_claims, observe_codes

ARMS = ("float", "true4bit", "no_clip", "fixed_scale", "no_grad_clip", "resident", "resident_residual", "w4a8", "w4a4")
WOBBLE = {arm: 1e-5 * (7 * place % 5) for place, arm in enumerate(ARMS)}
"""Seeds differ, or no spread could be told."""

SAMPLES = {
    "levels_least": 14,
    "levels_most": 15,
    "top_least": 7,
    "top_most": 7,
    "weights": 64,
    "codes_nbytes": 32,
    "half_bytes": 32,
}


def result(arm: str, seed: int, *, score: float = 0.9, nbytes: int = 1000, equal: bool = True) -> dict[str, object]:
    packed = {"equal": equal, "max_abs_difference": 0.0 if equal else 0.5, "bound": 0.0}
    size = {"file_nbytes": nbytes}
    held = {"weights": 1000, "optimizer": 2000} if arm == "float" else {"weights": 130, "optimizer": 600}
    scores = {"accuracy": score}
    row = {"arm": arm, "fold": 0, "seed": seed, "packed": packed, "size": size, "scores": scores}
    return {**row, "training_nbytes": held}


def evidence(
    scores: dict[str, float] | None = None,
    nbytes: dict[str, int] | None = None,
    unequal: tuple[str, ...] = (),
    **samples: float,
) -> Evidence:
    scores, nbytes = scores or {}, nbytes or {}
    accuracy = {arm: scores.get(arm, 0.9) for arm in ARMS}
    rows = [
        result(
            arm, seed, score=accuracy[arm] + WOBBLE[arm] * seed, nbytes=nbytes.get(arm, 1000), equal=arm not in unequal
        )
        for arm in ARMS
        for seed in range(3)
    ]
    arrays = {name: np.full(4, value) for name, value in {**SAMPLES, **samples}.items()}
    return Evidence(
        metric="accuracy",
        higher_is_better=True,
        arms=ARMS,
        seeds=(0, 1, 2),
        folds=(0,),
        data=rows,
        sizes=(8000, 2000),
        load_samples=lambda arm, fold, seed: arrays,
    )


def verdict(claim_id: str, given: Evidence) -> Verdict:
    claim = next(claim for claim in list_claims() if claim.id == claim_id)
    return claim.check(given)


def quantized(**config: object) -> nn.Module:
    model = build_model("true4bit/vgg4bit", {"width": 4, "image_size": 8, **config})
    rule = {"weight": "true4bit/tanh"}
    return qcore.quantize(model, {"type:Conv2d": rule, "type:Linear": rule})


def test_a_network_s_codes_are_counted() -> None:
    model = quantized()
    found = observe_codes(model)
    assert found["weights"] == sum(m.weight.numel() for m in model.modules() if hasattr(m, "weight_quantizer"))
    # All rows have an even number of columns but those of the first convolution: 4 of 27.
    assert found["codes_nbytes"] == found["half_bytes"] == (found["weights"] + 4) / 2
    assert found["top_least"] == found["top_most"] == 7
    assert 2 <= found["levels_least"] <= found["levels_most"] <= 15
    assert 0 < found["entropy"] < 3.91
    assert found["folded_nbytes"] == len(to_bytes(model, fold=True))


def test_a_float_network_tells_nothing() -> None:
    assert observe_codes(nn.Linear(2, 2)) == {}


@pytest.mark.parametrize(
    ("samples", "expected"),
    [({}, "holds"), ({"levels_most": 16}, "fails"), ({"top_least": 6}, "fails"), ({"top_most": 8}, "fails")],
)
def test_a_sixteenth_level_or_another_top_code_makes_the_claim_fail(samples: dict[str, float], expected: str) -> None:
    assert verdict("fifteen_levels", evidence(**samples)).verdict == expected


def test_a_sixteenth_level_in_any_epoch_makes_the_claim_fail() -> None:
    def history(levels: int, top: int = 7) -> Evidence:
        rows = [{"observed": {"layers": {"0": {"levels": levels, "top": top}}}}]
        return replace(evidence(), load_history=lambda arm, fold, seed: rows)

    assert verdict("fifteen_levels", history(15)).verdict == "holds"
    assert verdict("fifteen_levels", history(16)).verdict == "fails"
    assert verdict("fifteen_levels", history(15, top=6)).verdict == "fails"


def test_one_layer_with_fourteen_levels_makes_the_claim_of_all_fifteen_fail() -> None:
    assert verdict("all_fifteen_are_used", evidence()).verdict == "fails"
    assert verdict("all_fifteen_are_used", evidence(levels_least=15)).verdict == "holds"


def test_packed_logits_are_compared_where_sums_are_integer() -> None:
    assert verdict("packed_equals_eval", evidence(unequal=("true4bit",))).verdict == "holds"
    found = verdict("packed_equals_eval", evidence(unequal=("w4a4",)))
    assert found.verdict == "fails" and "w4a4, fold 0, seed 0" in found.reason


def test_parity_is_half_a_point_on_seeds_of_one_fold() -> None:
    near = verdict("parity", evidence({"true4bit": 0.8999, "float": 0.9}))
    far = verdict("parity", evidence({"true4bit": 0.88, "float": 0.9}))
    assert near.p_value < 0.05 < far.p_value
    assert far.value == pytest.approx(-0.02, abs=1e-3)
    assert "seeds on one split" in near.test


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        ({"no_clip": 0.85, "fixed_scale": 0.80}, "the scale that follows the weights costs more"),
        ({"no_clip": 0.95}, "costs more"),
        ({"no_clip": 0.95, "fixed_scale": 0.96, "no_grad_clip": 0.97}, "costs nothing"),
    ],
)
def test_the_soft_clip_must_cost_most(scores: dict[str, float], reason: str) -> None:
    found = verdict("soft_clip_helps_most", evidence(scores))
    assert found.verdict == "fails" and reason in found.reason


def test_that_the_soft_clip_costs_most_must_be_significant() -> None:
    clear = verdict("soft_clip_helps_most", evidence({"no_clip": 0.80, "fixed_scale": 0.85}))
    assert clear.verdict is None and clear.p_value < 0.05
    assert clear.value["no_clip"] == pytest.approx(0.1, abs=1e-3)
    near = verdict("soft_clip_helps_most", evidence({"no_clip": 0.8499, "fixed_scale": 0.85}))
    assert near.verdict is None and near.p_value > 0.05


def test_a_quarter_of_the_float_arm_s_training_is_the_limit() -> None:
    found = verdict("resident_training_takes_a_quarter", evidence())
    assert found.verdict == "holds" and found.value["resident"] == pytest.approx(730 / 3000)
    rows = [{**row, "training_nbytes": {"weights": 1000, "optimizer": 0}} for row in evidence().data]
    assert verdict("resident_training_takes_a_quarter", replace(evidence(), data=rows)).verdict == "fails"


@pytest.mark.parametrize(("codes", "half_bytes", "expected"), [(32, 32, "holds"), (33, 32, "fails"), (60, 60, "fails")])
def test_eight_times_is_said_of_the_codes_alone(codes: int, half_bytes: int, expected: str) -> None:
    found = verdict("codes_are_8_times_smaller", evidence(codes_nbytes=codes, half_bytes=half_bytes))
    assert found.verdict == expected


@pytest.mark.parametrize(("nbytes", "expected"), [(1000, "holds"), (1001, "fails")])
def test_files_are_compared_by_their_bytes(nbytes: int, expected: str) -> None:
    given = evidence(nbytes={"float": 7800, "true4bit": nbytes}, folded_nbytes=nbytes - 10, weights=3_246_784)
    assert verdict("file_is_7_8_times_smaller", given).verdict == expected
    folded = evidence(nbytes={"float": 7900}, folded_nbytes=nbytes, weights=3_246_784)
    assert verdict("folded_file_is_7_9_times_smaller", folded).verdict == expected


def test_the_claims_of_size_are_about_the_full_network() -> None:
    found = verdict("file_is_7_8_times_smaller", evidence(nbytes={"float": 7900}))
    assert found.verdict == "untested" and found.value == pytest.approx(7.9) and "64 weights" in found.reason


def test_the_vgg_s_file_is_as_small_as_the_fact_sheet_says() -> None:
    found = observe_codes(quantized(width=64, image_size=32))
    assert found["weights"] == 3_246_784
    assert found["codes_nbytes"] == 1_623_392 + 32  # rows of 27 columns end within a byte
    network = build_model("true4bit/vgg4bit", {}).eval()
    assert len(to_bytes(network)) / found["folded_nbytes"] >= 7.9


@torch.no_grad()
def test_a_folded_file_gives_the_logits_within_rounding() -> None:
    model = quantized().eval()
    x = torch.rand(4, 3, 8, 8) * 255
    folded = qcore.pack(model, fold=True)
    assert torch.allclose(folded(x), model(x), rtol=1e-4, atol=1e-4)
