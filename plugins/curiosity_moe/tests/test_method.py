from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import qcore
from qcore.errors import ConfigError, UsageError
from qcore.methods import Progress
from qcore.nn import build_model
from qcore.plugins import default
from qcore.routers import Routing
from qcore.runs.rundir import Run
from qcore_curiosity_moe.method import CuriosityMoE, balance_penalty, warm_up

ARMS = ["float", "ternary", "int1", "int2", "int4", "int8", "ptq_int8"]
TOGETHER = ["moe_softmax", "moe_curiosity", "cascade", "ensemble"]
TINY = {"epochs": 2, "hidden": [16, 12], "router_hidden": [12, 8], "batch_size": 32}


def make_method(**options: object) -> CuriosityMoE:
    method = default().registry.make("method", "curiosity_moe/curiosity_moe", **options)
    assert isinstance(method, CuriosityMoE)
    return method


def make_task(name: str = "digits") -> object:
    return default().registry.make("task", name)


def run_tiny(out: Path, task: str = "digits", **settings: object) -> Run:
    options = {**TINY, **settings}
    run = qcore.run(plugin="curiosity_moe", task=task, folds=2, settings=options, workers=1, out=out, latency=False)
    assert isinstance(run, Run)
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    arms = ["ternary", "int4", "int8", *TOGETHER]
    return run_tiny(tmp_path_factory.mktemp("runs") / "tiny", arms=arms, budget_bits=5.0)


def test_a_run_trains_compares_packs_and_judges(finished: Run) -> None:
    summary = json.loads((finished.path / "summary.json").read_text())
    assert set(summary["arms"]) == {"ternary", "int4", "int8", *TOGETHER}
    assert all(arm["packed"]["equal"] for arm in summary["arms"].values())
    assert all(arm["score"]["mean"] > 0.3 for arm in summary["arms"].values())
    verdicts = {claim["id"]: claim for claim in summary["claims"]}
    assert verdicts["q4_equals_float"]["verdict"] == "untested"
    assert verdicts["curiosity_is_stable"]["verdict"] == "untested"
    assert "5" in verdicts["curiosity_is_stable"]["reason"]
    assert verdicts["routing_to_high_bits"]["verdict"] in ("holds", "fails")
    assert verdicts["moe_beats_cascade"]["value"] is not None


def test_a_run_keeps_evidence_for_each_sample(finished: Run) -> None:
    samples = finished.evidence().samples("moe_curiosity")
    assert len(samples["expert"]) == 1797
    assert samples["probabilities"].shape == (1797, 3)
    assert {"uncertainty", "uncertainty_normalised", "expert_without_curiosity", "confidence"} <= set(samples)
    assert set(samples["expert_bits"].round(1).tolist()) <= set(np.float32([1.6, 4.0, 8.0]).tolist())
    assert ((samples["uncertainty_normalised"] >= 0) & (samples["uncertainty_normalised"] <= 1)).all()
    plain = finished.evidence().samples("moe_softmax")
    assert (plain["expert"] == plain["expert_without_curiosity"]).all()
    stages = finished.evidence().samples("cascade")
    assert set(stages["expert"]) == {0, 1}


def test_a_budget_holds_on_held_out_samples_too_within_noise(finished: Run) -> None:
    for arm in ("moe_softmax", "moe_curiosity"):
        assert finished.evidence().samples(arm)["expert_bits"].mean() < 5.0 + 0.4


def test_the_report_says_what_curiosity_changed(finished: Run) -> None:
    page = (finished.path / "report.html").read_text()
    assert "What curiosity changed" in page
    assert "to another expert" in page


def test_the_arms_are_the_float_baseline_the_experts_alone_and_what_is_made_of_them() -> None:
    arms = {arm.name: arm for arm in make_method().arms()}
    assert list(arms) == [*ARMS, *TOGETHER]
    assert [name for name, arm in arms.items() if arm.baseline] == ["float"]
    assert arms["cascade"].needs == ("int4", "int8")
    assert arms["ensemble"].needs == ("ternary", "int4", "int8")
    assert arms["moe_curiosity"].needs == ()


def test_an_expert_of_ones_own_stands_alone_as_well() -> None:
    method = make_method(experts=["bitnet/ternary", "core/int(bits=3)"], expert_training="pretrain")
    arms = {arm.name: arm for arm in method.arms()}
    assert "int_bits_3" in arms
    assert arms["moe_curiosity"].needs == ("ternary", "int_bits_3")


def test_a_budget_takes_experts_that_were_trained_alone_unless_told_otherwise() -> None:
    assert not make_method().config.pretrain
    assert make_method(budget_bits=4).config.pretrain
    assert not make_method(budget_bits=4, expert_training="joint", trunk=True).config.pretrain


def test_every_arm_is_trained_in_the_same_way() -> None:
    method = make_method(epochs=7, lr=0.01)
    phases = {arm.name: method.phases(arm) for arm in method.arms()}
    assert {name for name, found in phases.items() if not found} == {"ptq_int8", "cascade", "ensemble"}
    trained = [found[0] for found in phases.values() if found]
    same = {(p.epochs, p.optimizers, p.batch_size, p.patience, p.label_smoothing, p.restore_best) for p in trained}
    assert len(same) == 1


def test_float_and_single_experts_start_from_the_same_weights() -> None:
    method, task = make_method(**TINY), make_task()
    arms = {arm.name: arm for arm in method.arms()}
    built = {n: method.build(arms[n], task, torch.Generator().manual_seed(3), {}) for n in ("float", "int4", "ternary")}
    weights = [model.blocks[0].linear.weight for model in built.values()]
    assert all(torch.equal(weights[0], weight) for weight in weights)


def test_both_mixtures_differ_in_alpha_alone() -> None:
    method, task = make_method(**TINY, alpha=2.0), make_task()
    arms = {arm.name: arm for arm in method.arms()}
    names = ("moe_softmax", "moe_curiosity")
    softmax, curious = (method.build(arms[name], task, torch.Generator().manual_seed(3), {}) for name in names)
    one, other = softmax.state_dict(), curious.state_dict()
    assert {name for name in one if not torch.equal(one[name], other[name])} == {"moe.router.alpha"}
    assert float(curious.moe.router.alpha) == 2.0


def test_wide_inputs_get_wide_networks() -> None:
    method = make_method()
    task = make_task()
    assert method.body(task)["hidden"] == (128, 64)
    task.__dict__["data"] = type(task.data)(inputs=torch.zeros(4, 512), targets=torch.tensor([0, 1, 0, 1]))
    assert method.body(task)["hidden"] == (640, 320)


def test_a_regression_cannot_have_a_cascade_and_says_what_to_do() -> None:
    task = make_task("diabetes")
    with pytest.raises(UsageError, match="--set arms="):
        make_method().body(task)
    assert make_method(arms=["float", "moe_curiosity"]).body(task)["rescale"]


def test_a_regression_runs_without_it(tmp_path: Path) -> None:
    run = run_tiny(tmp_path / "run", "diabetes", arms=["float", "moe_curiosity", "ensemble"])
    summary = json.loads((run.path / "summary.json").read_text())
    assert summary["arms"]["moe_curiosity"]["score"]["mean"] < 2 * 77**2
    assert {claim["id"]: claim["verdict"] for claim in summary["claims"]}["q4_equals_float"] == "untested"


def test_pretrained_experts_stay_as_they_are_and_the_router_alone_is_trained(tmp_path: Path) -> None:
    run = run_tiny(tmp_path / "run", arms=["moe_curiosity"], expert_training="pretrain")
    mixture = qcore.load(run.path / "moe_curiosity" / "fold-0" / "model.safetensors")
    single = qcore.load(run.path / "int4" / "fold-0" / "model.safetensors")
    assert torch.equal(mixture.moe.experts[1].head.weight, single.head.weight)
    assert torch.equal(mixture.scaler.mean, single.scaler.mean)
    fresh = build_model("curiosity_moe/mixture", mixture.architecture.config)
    assert not torch.equal(mixture.moe.router.layer3.weight, fresh.moe.router.layer3.weight)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": ["core/int(bits=4)", "core/int(bits=4)"]}, "listed twice"),
        ({"budget_bits": 4, "budget_share": 0.2}, "not both"),
        ({"budget_share": 0.0, "top_k": 2}, "needs top_k = 1"),
        ({"top_k": 4}, "more than the 3 experts"),
        ({"trunk": True, "expert_training": "pretrain"}, "no shared trunk"),
        ({"trunk": True, "budget_bits": 4}, "a budget needs experts that were trained alone"),
        ({"alfa": 1.0}, "did you mean 'alpha'"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_method(**options)


def test_the_balance_penalty_is_least_when_experts_share_the_rows() -> None:
    class Model:
        class moe:  # noqa: N801 - stands for the attribute
            last_routing = None

    model = Model()
    assert float(balance_penalty(model, coefficient=1.0, form="switch")) == 0.0
    for rows, switch, importance in ((torch.eye(3), 1.0, 1 / 3), (torch.eye(3)[[0, 0, 0]], 3.0, 1.0)):
        model.moe.last_routing = Routing(rows, rows)
        assert float(balance_penalty(model, coefficient=1.0, form="switch")) == pytest.approx(switch)
        assert float(balance_penalty(model, coefficient=0.1, form="l2_importance")) == pytest.approx(0.1 * importance)


def test_alpha_warms_up_over_its_share_of_the_steps() -> None:
    method = make_method(**TINY)
    arm = next(arm for arm in method.arms() if arm.name == "moe_curiosity")
    model = method.build(arm, make_task(), torch.Generator().manual_seed(0), {})
    ramps = []
    for step in (0, 10, 20, 40, 79):
        warm_up(model, Progress(step, 80, 0, 4), share=0.25)
        ramps.append(float(model.moe.router.ramp))
    assert ramps == [0.0, 0.5, 1.0, 1.0, 1.0]
    warm_up(model, Progress(0, 80, 0, 4), share=0.0)
    assert float(model.moe.router.ramp) == 1.0
