"""The method: its arms, its phases, and what a run of it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import qcore
from qcore.errors import ConfigError, UsageError
from qcore.methods import Arm
from qcore.nn import QuantLayer
from qcore.tasks import Task, TaskData
from qcore_nmpqat.method import NmpQat, is_no_strength
from qcore_nmpqat.network import activations, neurons
from qcore_nmpqat.quantizers.noise import NoiseQuantizer


class Blobs(Task):
    """Three classes that the first two features tell apart."""

    def load(self) -> TaskData:
        inputs = torch.randn(240, 6, generator=torch.Generator().manual_seed(1))
        targets = torch.bucketize((inputs[:, 0] * inputs[:, 1]).contiguous(), torch.tensor([-0.3, 0.3]))
        return TaskData(inputs=inputs, targets=targets, class_names=("a", "b", "c"), source="drawn")


class Pictures(Task):
    """Pictures, which this method does not take."""

    def load(self) -> TaskData:
        inputs = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        return TaskData(inputs=inputs, targets=torch.arange(12) % 2, class_names=("a", "b"), source="drawn")


def method(**options: object) -> NmpQat:
    made: NmpQat = qcore.get("method", "nmpqat", **{"hidden": (16, 16), **options})
    return made


def arm_of(made: NmpQat, name: str) -> Arm:
    return next(arm for arm in made.arms() if arm.name == name)


def build(made: NmpQat, name: str) -> nn.Module:
    arm = arm_of(made, name)
    return made.build(arm, Blobs(), torch.Generator().manual_seed(0), sources_of(made, arm))


def sources_of(made: NmpQat, arm: Arm) -> dict[str, nn.Module]:
    """Return what ``arm`` needs, untrained; the neurons of ``nmpqat`` have all widths in turn."""
    sources: dict[str, nn.Module] = {}
    for need in arm.needs:
        source = build(made, need)
        if need == "nmpqat":
            for _, quantizer in neurons(source).values():
                quantizer.set_widths(torch.tensor([1, 2, 4, 8] * 4))
            source = qcore.pack(source, backend="reference")
        sources[need] = source
    return sources


def run(tmp_path: Path, *arms: str, **options: object) -> dict[str, Any]:
    settings = {"hidden": (16, 16), "batch_size": 32, "arms": arms, **options}
    out = tmp_path / "run"
    qcore.run("nmpqat", task="breast_cancer", folds=2, settings=settings, workers=1, latency=False, out=out)
    return dict(json.loads((out / "summary.json").read_text()))


def histories(tmp_path: Path, arm: str) -> list[list[dict[str, Any]]]:
    files = sorted((tmp_path / "run" / arm).glob("*/history.jsonl"))
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]


def test_the_float_arm_is_the_baseline() -> None:
    arms = method().arms()
    assert [arm.name for arm in arms if arm.baseline] == ["float"]
    assert arms[0].name == "float"


def test_diffq_is_an_arm_only_where_it_is_asked_for() -> None:
    plain = [arm.name for arm in method().arms()]
    assert "diffq" not in plain
    assert len(plain) == 12
    for options in ({"diffq": True}, {"arms": ("float", "diffq")}):
        assert [arm.name for arm in method(**options).arms()] == [*plain, "diffq"]
    ids = {claim.id for claim in method(diffq=True).claims()} - {claim.id for claim in method().claims()}
    assert ids == {"beats_diffq"}


@pytest.mark.parametrize("arm", [arm.name for arm in method(diffq=True).arms()])
def test_every_arm_begins_with_the_same_weights_and_keeps_a_float_head(arm: str) -> None:
    built, plain = build(method(diffq=True), arm), build(method(), "float")
    weights = dict(plain.named_parameters())
    for name, parameter in built.named_parameters():
        if name in weights:
            assert torch.equal(parameter, weights[name]), name
    assert type(built.head) is nn.Linear
    layers = [module for module in built.modules() if isinstance(module, QuantLayer)]
    assert len(layers) == (0 if arm == "float" else 2)


def test_what_enters_the_network_stays_float() -> None:
    assert list(activations(build(method(), "nmpqat_wa"))) == ["blocks.1.linear"]
    assert not activations(build(method(), "nmpqat"))


def test_allocations_have_the_mean_of_the_learned_widths() -> None:
    made = method()
    widths = {name: [q.widths() for _, q in neurons(build(made, name)).values()] for name in ("random", "oracle")}
    assert [sorted(found.tolist()) for found in widths["random"]] == [sorted([1, 2, 4, 8] * 4)] * 2
    mean = torch.cat(widths["oracle"]).double()
    counts = torch.tensor([6.0] * 16 + [16.0] * 16)
    assert 3.5 < float((mean * counts).sum() / counts.sum()) <= 3.75 + 1e-6


def test_lsq_learns_its_steps_and_a_width_a_layer() -> None:
    found = neurons(build(method(), "lsq"))
    assert all(len(q.widths().unique()) == 1 and hasattr(q, "half_step") for _, q in found.values())


def test_widths_move_and_then_stand_still() -> None:
    made = method(epochs=20, freeze=0.15)
    learn, freeze = made.phases(arm_of(made, "nmpqat"))
    assert (learn.epochs, freeze.epochs) == (17, 3)
    assert [config.params for config in learn.optimizers] == ["*strength", "*"]
    assert not learn.restore_best
    assert learn.patience is None
    assert freeze.restore_best
    assert freeze.trainable is is_no_strength
    end = learn.optimizers[1].lr_schedule
    start = freeze.optimizers[0].lr_schedule
    assert end(1.0) == pytest.approx(start(0.0))
    assert start(1.0) == pytest.approx(0.0)


def test_arms_without_learned_widths_are_trained_in_the_same_phases() -> None:
    made = method()
    for arm in made.arms():
        phases = made.phases(arm)
        assert [(p.name, p.epochs, p.batch_size, p.patience) for p in phases] == [
            ("learn", 51, 128, None),
            ("freeze", 9, 128, 20),
        ]


def test_without_a_freeze_there_is_one_phase() -> None:
    made = method(preset="paper")
    (phase,) = made.phases(arm_of(made, "nmpqat"))
    assert (phase.epochs, phase.patience, phase.penalty) == (100, 20, None)
    assert [(config.name, config.momentum) for config in phase.optimizers] == [("sgd", 0.9), ("sgd", 0.9)]


def test_the_preset_yields_to_options() -> None:
    config = method(preset="paper", lr=0.5).config
    assert (config.lr, config.optimizer, config.start) == (0.5, "sgd", "uniform")
    assert method(preset="paper", hidden=None).config.hidden is None


def test_the_papers_strengths_begin_anywhere_in_the_lowest_width() -> None:
    found = torch.cat([q.strength.detach() for _, q in neurons(build(method(preset="paper"), "nmpqat")).values()])
    assert 0 <= float(found.min()) < 0.1 < float(found.max()) < 0.25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budget_bits": 9}, "8"),
        ({"budget_bits": 0.5}, "between widths 1 and 8"),
        ({"budget_bits": 2, "freeze": 0}, "freeze"),
        ({"neuron": {"width": [1]}}, "width"),
        ({"activation": {"widths": [5]}}, "among"),
        ({"diffq": True, "freeze": 0}, "freeze"),
        ({"diffq": True, "noise": {"start": 9}}, "between 1 and 8"),
        ({"noise": {"rate": 9}}, "rate"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        method(**options)


def test_diffq_has_the_mean_width_of_nmpqat_as_its_budget() -> None:
    options = {"noise": {"distribution": "normal", "start": 2.0}, "neuron": {"widths": [0, 1, 2, 4, 8]}}
    found = neurons(build(method(diffq=True, **options), "diffq"))
    assert len(found) == 2
    for _, quantizer in found.values():
        assert isinstance(quantizer, NoiseQuantizer)
        assert float(quantizer.budget) == pytest.approx(3.75, abs=1e-5)
        assert quantizer.config.widths == (1, 2, 4, 8)
        assert (quantizer.config.distribution, quantizer.config.hysteresis) == ("normal", 0.02)
        assert quantizer.widths().tolist() == [2] * 16


def test_diffq_is_trained_in_the_phases_of_nmpqat() -> None:
    made = method(diffq=True, noise={"lr": 0.1})
    ours, theirs = (made.phases(arm_of(made, name)) for name in ("diffq", "nmpqat"))
    for own, other in zip(ours, theirs, strict=True):
        same = ("name", "epochs", "batch_size", "patience", "restore_best", "trainable")
        assert [getattr(own, key) for key in same] == [getattr(other, key) for key in same]
        assert own.optimizers[-1] == other.optimizers[-1]
    logits = ours[0].optimizers[0]
    assert (logits.name, logits.lr, logits.params, logits.weight_decay) == ("adam", 0.1, "*logit", 0.0)
    assert not is_no_strength("blocks.0.linear.weight_quantizer.logit")


def test_pictures_are_refused() -> None:
    with pytest.raises(UsageError, match="rows of features"):
        method().check(Pictures())


def test_zero_rate_of_strengths_is_one_bit_training(tmp_path: Path) -> None:
    summary = run(tmp_path, "float", "nmpqat", "uniform1", epochs=6, strength_lr=1e-12)
    arms = summary["arms"]
    assert arms["nmpqat"]["score"]["values"] == arms["uniform1"]["score"]["values"]
    assert {row["observed"]["bits"] for rows in histories(tmp_path, "nmpqat") for row in rows} == {1.0}


def test_widths_move_and_the_history_says_why(tmp_path: Path) -> None:
    run(tmp_path, "float", "nmpqat", epochs=24, strength_lr=0.01)
    for rows in histories(tmp_path, "nmpqat"):
        told = [row["observed"] for row in rows]
        assert told[0]["bits"] == 1.0
        assert told[-1]["bits"] > 1.0
        learned = [row["observed"] for row in rows if row["phase"] == "learn"]
        frozen = [row["observed"] for row in rows if row["phase"] == "freeze"]
        assert {row["bits"] for row in frozen} == {learned[-1]["bits"]}
        layer = learned[-1]["weights"]["blocks.0.linear"]
        assert len(layer["widths"]) == len(layer["demands"]) == 16
        assert sum(layer["counts"].values()) == 16


@pytest.mark.parametrize("budget", [1.5, 3.0])
def test_a_budget_is_met(tmp_path: Path, budget: float) -> None:
    summary = run(tmp_path, "float", "nmpqat", epochs=10, strength_lr=0.02, budget_bits=budget)
    (claim,) = [claim for claim in summary["claims"] if claim["id"] == "budget_is_met"]
    assert claim["verdict"] == "holds", claim
    for rows in histories(tmp_path, "nmpqat"):
        assert abs(rows[-1]["observed"]["bits"] - budget) <= 0.05


def test_the_report_shows_the_widths(tmp_path: Path) -> None:
    run(tmp_path, "float", "nmpqat", "nmpqat_wa", epochs=10, strength_lr=0.02)
    page = (tmp_path / "run" / "report.html").read_text()
    for title in ("Widths over epochs", "Width of each neuron", "Demand against width", "Score against width"):
        assert title in page


@pytest.mark.parametrize("budget", [None, 1.5])
def test_diffq_ends_at_the_mean_width_of_nmpqat(tmp_path: Path, budget: float | None) -> None:
    summary = run(tmp_path, "float", "nmpqat", "diffq", epochs=10, strength_lr=0.02, budget_bits=budget)
    step = 4 * 30 / (30 * 16 + 16 * 16)  # the widest step of the largest neuron, from 4 to 8 bits
    for ours, theirs in zip(histories(tmp_path, "diffq"), histories(tmp_path, "nmpqat"), strict=True):
        assert ours[0]["observed"]["bits"] == 4.0
        ends = [rows[-1]["observed"]["bits"] for rows in (ours, theirs)]
        assert ends[1] - step < ends[0] <= ends[1] + 1e-5
    assert "beats_diffq" in {claim["id"] for claim in summary["claims"]}
    for file in (tmp_path / "run" / "diffq").glob("*/result.json"):
        packed = json.loads(file.read_text())["packed"]
        assert packed["max_abs_difference"] <= max(packed["bound"], 1e-5)
    assert "diffq ends with" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.parametrize("arm", ["nmpqat", "diffq"])
def test_training_stopped_after_any_epoch_goes_on_to_the_same_numbers(tmp_path: Path, arm: str) -> None:
    """Strengths or logits, levels, demand, price, budget and the stream of noise are all in the checkpoint."""
    whole, _ = train(arm, tmp_path / "whole")
    for stop in (2, 6, 7):
        with pytest.raises(KeyboardInterrupt):
            train(arm, tmp_path / f"stopped{stop}", stop)
        resumed, history = train(arm, tmp_path / f"stopped{stop}")
        assert len(history.rows) == 8
        for name, tensor in whole.state_dict().items():
            assert torch.equal(tensor, resumed.state_dict()[name]), (stop, name)


def train(name: str, folder: Path, stop: int | None = None) -> tuple[nn.Module, Any]:
    from qcore.training import FoldTensors, fit
    from qcore.training.checkpoint import CheckpointFile
    from qcore.training.devices import make_fabric

    options = {"batch_size": 32, "strength_lr": 0.02, "budget_bits": 1.5, "freeze": 0.25, "diffq": True}
    made, task = method(epochs=8, **options), Blobs()
    arm, model = arm_of(made, name), build(made, name)
    rows = torch.arange(240)
    data = FoldTensors(
        *(part[where] for where in (rows < 200, rows >= 200) for part in (task.data.inputs, task.data.targets))
    )
    folder.mkdir(exist_ok=True)
    done = 0

    def on_epoch(row: dict[str, Any]) -> None:
        nonlocal done
        done += 1
        if done - 1 == stop:
            raise KeyboardInterrupt

    file = CheckpointFile(folder / "training.safetensors", every_s=0)
    generator = torch.Generator().manual_seed(1)
    history = fit(
        model,
        made.phases(arm),
        data,
        task,
        generator=generator,
        fabric=make_fabric(),
        on_epoch=on_epoch,
        checkpoint=file,
    )
    return model, history
