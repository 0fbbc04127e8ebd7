"""The method: its arms, its config, and what a run of it leaves."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import qcore
from qcore.cli.app import app
from qcore.errors import ConfigError
from qcore.nn import QuantLayer
from qcore.plugins import reset_default
from qcore.tasks import Task
from qcore_hetero_diffq.budget.ledger import Ledger
from qcore_hetero_diffq.errors import BudgetInfeasible
from qcore_hetero_diffq.network import inputs_of, weights_of

Make = Callable[..., Any]
ARMS = (
    "float",
    "uniform2",
    "mixed_1_6bit",
    "mixed_3bit",
    "tensor_3bit",
    "ste_3bit",
    "paper_3bit",
    "chosen_3bit",
    "lsq_3bit",
)
KINDS = ("mixed", "tensor", "ste", "paper", "chosen", "lsq")
SETTINGS: dict[str, Any] = {
    "hidden": [24, 16],
    "batch_size": 64,
    "epochs": 3,
    "homogeneous_epochs": 1,
    "mixed_epochs": 2,
    "tune_epochs": 2,
    "budgets": ["1.6bit", "3bit"],
    "ablations": "3bit",
}


def run(out: Path, arms: tuple[str, ...], **options: Any) -> SimpleNamespace:
    settings = {**SETTINGS, "arms": list(arms), **options}
    qcore.run("hetero_diffq", task="breast_cancer", folds=2, settings=settings, workers=1, latency=False, out=out)
    return SimpleNamespace(out=out, summary=json.loads((out / "summary.json").read_text()))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A run of most arms."""
    return run(tmp_path_factory.mktemp("runs") / "run", ARMS)


def limits_of(folder: Path) -> dict[str, float]:
    from safetensors.numpy import load_file

    samples = load_file(folder / "samples.safetensors")
    return {name: float(values[0]) for name, values in samples.items() if name.startswith(("limit_", "taken_"))}


def test_every_budgeted_file_is_at_or_under_its_budget(finished: SimpleNamespace) -> None:
    seen = 0
    for arm in ARMS:
        for folder in sorted((finished.out / arm).glob("fold-*")):
            told = limits_of(folder)
            if "limit_weights" in told:
                size = (folder / "model.safetensors").stat().st_size
                assert size <= told["limit_weights"], (arm, folder.name)
                assert size <= told["taken_weights"] <= told["limit_weights"], "an estimate of metadata from above"
                assert arm.startswith("lsq") or size >= 0.95 * told["limit_weights"], (arm, folder.name)
                seen += 1
    assert seen == 2 * len(
        [arm for arm in ARMS if arm.startswith(("mixed", "tensor", "ste", "paper", "chosen", "lsq"))]
    )


def test_packed_networks_score_as_trained_ones(finished: SimpleNamespace) -> None:
    for arm in ARMS[1:]:
        for folder in (finished.out / arm).glob("fold-*"):
            packed = json.loads((folder / "result.json").read_text())["packed"]
            # Sums of the first layer are float; where they round otherwise an input's code may be its neighbour.
            assert packed["max_abs_difference"] <= 0.02, arm


def test_claims_have_verdicts(finished: SimpleNamespace) -> None:
    verdicts = {claim["id"]: claim for claim in finished.summary["claims"]}
    assert verdicts["budgets_are_kept"]["verdict"] == "holds"
    assert verdicts["budgets_are_kept"]["value"] <= 1
    assert verdicts["budgets_are_spent"]["verdict"] in ("holds", "fails")
    assert verdicts["budgets_are_spent"]["value"] >= 0.95
    for name in (
        "widths_differ",
        "more_bytes_help",
        "channels_help",
        "gradients_help",
        "penalty_help",
        "beats_uniform2",
    ):
        assert verdicts[name]["verdict"] in ("holds", "fails"), verdicts[name]
    assert verdicts["close_to_float"]["verdict"] == verdicts["beats_uniform3"]["verdict"] == "untested"


def test_the_report_has_the_methods_sections(finished: SimpleNamespace) -> None:
    page = (finished.out / "report.html").read_text()
    for title in ("Score against bytes", "Widths over epochs", "Width of each row", "What it forgets: samples"):
        assert title in page


def test_a_saved_network_loads_without_its_code(finished: SimpleNamespace) -> None:
    model = qcore.load(finished.out / "mixed_3bit" / "fold-0" / "model.safetensors", backend="reference")
    y = model(torch.randn(4, 30, generator=torch.Generator().manual_seed(0)))
    assert y.shape == (4, 2) and bool(torch.isfinite(y).all())


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ({"of": "activations", "budgets": ["3bit"]}, {"activations"}),
        ({"of": "both", "budgets": ["3bit"], "counting": "peak"}, {"both"}),
        ({"activation_budget": "4bit", "budgets": ["2bit"], "counting": "max"}, {"weights", "activations"}),
        ({"budgets": ["900B"], "count_metadata": False}, {"weights"}),
    ],
)
def test_whatever_is_counted_is_kept(tmp_path: Path, options: dict[str, Any], limits: set[str]) -> None:
    label = {"900B": "900b"}.get(options["budgets"][0], options["budgets"][0])
    arms = (f"mixed_{label}", f"lsq_{label}")
    done = run(tmp_path / "run", ("float", *arms), **{**options, "ablations": None})
    claims = {claim["id"]: claim for claim in done.summary["claims"]}
    assert claims["budgets_are_kept"]["verdict"] == "holds", claims["budgets_are_kept"]
    for folder in (folder for arm in arms for folder in (done.out / arm).glob("fold-*")):
        told = limits_of(folder)
        assert {name.removeprefix("limit_") for name in told if name.startswith("limit_")} == limits
        assert all(told[f"taken_{name}"] <= told[f"limit_{name}"] for name in limits)


def command(*words: object) -> Any:
    try:
        env = {"COLUMNS": "200", "TERM": "dumb", "QCORE_DEBUG": None}
        return CliRunner().invoke(app, [str(word) for word in words], env=env, prog_name="qcore")
    finally:
        reset_default()


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_budget_that_cannot_be_kept_ends_a_run_before_it_starts(tmp_path: Path, dry: tuple[str, ...]) -> None:
    out = tmp_path / "run"
    words = (
        "run",
        "-p",
        "hetero_diffq",
        "--task",
        "breast_cancer",
        "--folds",
        "2",
        "--set",
        "budget=1KB",
        "--out",
        out,
    )
    result = command(*words, *dry)
    assert result.exit_code == 2, result.stderr
    told = " ".join(result.stderr.split())
    assert "cannot be kept" in told and "allow at least" in told and ".weight (" in told
    assert not list(out.glob("*/fold-*/history.jsonl"))


def test_an_infeasible_budget_names_the_smallest(method: Make, blobs: Task) -> None:
    with pytest.raises(BudgetInfeasible, match=r"Largest: ") as error:
        method(budget="100B").check(blobs)
    least = error.value.smallest_nbytes
    method(budget=f"{least}B").check(blobs)
    with pytest.raises(BudgetInfeasible):
        method(budget=f"{least - 1}B").check(blobs)


def test_only_arms_that_run_are_checked(method: Make, blobs: Task) -> None:
    method(budgets=("100B", "3bit"), ablations="3bit", arms=["float", "mixed_3bit"]).check(blobs)
    with pytest.raises(BudgetInfeasible):
        method(budgets=("100B", "3bit"), ablations="3bit", arms=["float", "mixed_100b"]).check(blobs)


def test_the_smallest_budget_is_trained_and_kept(method: Make, network: Make, blobs: Task) -> None:
    with pytest.raises(BudgetInfeasible) as error:
        method(budget="100B").check(blobs)
    made = method(budget=f"{error.value.smallest_nbytes}B")
    model = network(made, next(arm.name for arm in made.arms() if arm.name.startswith("mixed")))
    assert Ledger.of(model).limits.weights == error.value.smallest_nbytes


def test_the_float_arm_is_the_baseline_and_every_other_needs_it(method: Make) -> None:
    arms = method().arms()
    assert [arm.name for arm in arms if arm.baseline] == ["float"] == [arms[0].name]
    assert all(arm.needs == ("float",) for arm in arms[1:])
    assert len({arm.name for arm in arms}) == len(arms)


@pytest.mark.parametrize(
    "name", ["uniform2", "mixed_2bit", "tensor_2bit", "ste_2bit", "paper_2bit", "chosen_2bit", "lsq_2bit"]
)
def test_every_layer_is_quantized_and_every_input_but_the_first(method: Make, network: Make, name: str) -> None:
    made = method()
    model, plain = network(made, name), dict(network(made, "float").named_parameters())
    layers = [module for module in model.modules() if isinstance(module, nn.Linear | QuantLayer)]
    assert all(isinstance(layer, QuantLayer) and layer.weight_quantizer is not None for layer in layers)
    assert [layer.input_quantizer is not None for layer in layers] == [False, True, True]
    for parameter, value in model.named_parameters():
        if "_quantizer." not in parameter:
            assert torch.equal(value, plain[parameter]), parameter


def test_arms_differ_in_what_they_say(method: Make, network: Make) -> None:
    made = method()
    surrogates = {
        name: {q.config.surrogate for _, q in weights_of(network(made, name)).values()}
        | {q.config.surrogate for q in inputs_of(network(made, name)).values()}
        for name in ("mixed_2bit", "ste_2bit", "uniform2", "lsq_2bit")
    }
    assert surrogates == {
        "mixed_2bit": {"ewgs", "atanh"},
        "ste_2bit": {"ste"},
        "uniform2": {"ewgs", "atanh"},
        "lsq_2bit": {"ste"},
    }
    shares = {len(q.level) for _, q in weights_of(network(made, "tensor_2bit")).values()}
    assert shares == {1}
    assert {int(w) for _, q in weights_of(network(made, "mixed_2bit")).values() for w in q.row_bits()} == {4}
    assert {int(w) for _, q in weights_of(network(made, "uniform2")).values() for w in q.row_bits()} == {2}


@pytest.mark.parametrize("options", [{}, {"penalty": "paper"}])
def test_one_arm_has_the_other_penalty(method: Make, options: dict[str, Any]) -> None:
    made = method(**options)
    arms = {arm.name: arm for arm in made.arms()}
    other = "lagrangian_2bit" if options else "paper_2bit"
    kinds = {name: type(made.phases(arms[name])[1].penalty).__name__ for name in ("mixed_2bit", other)}
    expected = {"mixed_2bit": "AugmentedLagrangian", other: "SquaredHinge"}
    if options:
        expected = {"mixed_2bit": "SquaredHinge", other: "AugmentedLagrangian"}
    assert kinds == expected


def test_all_arms_train_as_many_epochs(method: Make) -> None:
    made = method()
    for arm in made.arms():
        assert sum(phase.epochs for phase in made.phases(arm)) == (3 if arm.baseline else 7), arm.name


@pytest.mark.parametrize("name", ["mixed_2bit", "tensor_2bit", "chosen_2bit", "lsq_2bit", "uniform3", "float_tuned"])
def test_learning_rates_are_one_cosine_in_parts(method: Make, name: str) -> None:
    made = method()
    phases = made.phases(next(arm for arm in made.arms() if arm.name == name))
    assert sum(phase.epochs for phase in phases) == made.config.quantized_epochs
    done = 0
    for phase in phases:
        for step in range(phase.epochs + 1):
            wanted = (1 + math.cos(math.pi * (done + step) / made.config.quantized_epochs)) / 2
            assert phase.optimizers[-1].lr_schedule(step / phase.epochs) == pytest.approx(wanted)
        done += phase.epochs


def test_the_papers_phases_warm_up(method: Make) -> None:
    made = method(preset="paper", budgets=("3bit",))
    for phase in made.phases(next(arm for arm in made.arms() if arm.name == "mixed_3bit")):
        for schedule in (config.lr_schedule for config in phase.optimizers):
            assert schedule(0.0) == 0 and schedule(1.0) == pytest.approx(0)
            assert max(schedule(step / 100) for step in range(101)) == pytest.approx(1)


@pytest.mark.parametrize("part", ["weight", "activation"])
def test_widths_that_follow_from_a_budget_are_not_taken(method: Make, part: str) -> None:
    with pytest.raises(ConfigError, match="leave weight.bits and activation.bits out"):
        method(**{part: {"bits": 3}})


def test_a_network_that_is_no_mlp_gets_no_hidden_layers(method: Make) -> None:
    made = method(hidden=None)
    task = SimpleNamespace(default_model=lambda: ("hetero_diffq/resnet20", {"out_features": 3}))
    assert isinstance(made.network(task, torch.Generator()), nn.Module)


@pytest.mark.parametrize(
    ("options", "weights", "inputs"),
    [({}, 3, 8), ({"of": "activations", "weight_bits": 6}, 6, 3), ({"of": "both"}, 3, 3)],
)
def test_one_width_for_all_is_of_what_a_budget_limits(
    method: Make, network: Make, options: dict[str, Any], weights: int, inputs: int
) -> None:
    made = network(method(**options), "uniform3")
    assert {int(bits) for _, quantizer in weights_of(made).values() for bits in quantizer.row_bits()} == {weights}
    assert {int(quantizer.bits()) for quantizer in inputs_of(made).values()} == {inputs}


def test_the_widest_inputs_come_before_the_widest_weights(method: Make, network: Make) -> None:
    made = network(method(activation_budget="4bit", budgets=("3bit",)), "lsq_3bit")
    assert {int(quantizer.bits()) for quantizer in inputs_of(made).values()} == {4}
    assert {int(bits) for _, quantizer in weights_of(made).values() for bits in quantizer.row_bits()} <= {2, 3}


def test_the_preset_yields_to_options(method: Make) -> None:
    config = method(preset="paper", every=5, weight={"delta": 0.1}, epochs=4).config
    assert (config.every, config.epochs, config.penalty, config.optimizer) == (5, 4, "paper", "rmsprop")
    assert (config.weight.delta, config.weight.learn, config.weight.step_limits[0]) == (0.1, "linear", 2.0**-12)
    assert config.activation.step_limits[1] == 8
    assert qcore.get("method", "hetero_diffq", preset="paper").config.every == 20


@pytest.mark.parametrize("weight", ["linear", "log"])
def test_what_learns_linearly_stays_in_its_box_in_the_last_phase(method: Make, weight: str) -> None:
    made = method(weight={"learn": weight}, activation={"learn": "linear"})
    phases = made.phases(next(arm for arm in made.arms() if arm.name == "mixed_2bit"))
    assert phases[1].after_backward is not None and phases[2].after_step is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget": "lots"}, "a budget is written like"),
        ({"budgets": ()}, "budgets are given, and differ"),
        ({"budgets": ("3bit", "3 bit")}, "budgets are given, and differ"),
        ({"budgets": ("3bit",), "ablations": "2bit"}, "ablations run at one of the budgets"),
        ({"levels": ()}, "levels rise"),
        ({"levels": (2, 1)}, "levels rise"),
        ({"levels": (1, 9)}, "levels rise"),
        ({"uniform": (1,)}, "uniform widths"),
        ({"of": "both", "activation_budget": "3bit"}, "activation_budget"),
        ({"activation_budget": "much"}, "a budget is written like"),
        ({"counting": "mean"}, "counting"),
        ({"preset": "papers"}, "preset"),
        ({"weight": {"bits": 1}}, "bits"),
        ({"mixed_epochs": 0}, "mixed_epochs"),
        ({"margin": 1.0}, "margin"),
        ({"budgest": ("3bit",)}, "budgest"),
    ],
)
def test_bad_options_are_refused(method: Make, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method(**options)
