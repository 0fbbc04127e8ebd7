"""Training that is stopped goes on bit for bit, and phases move only what they may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qcore.methods import Phase, Progress
from qcore.tasks import Task
from qcore.training import FoldTensors, fit
from qcore.training.checkpoint import CheckpointFile
from qcore.training.devices import make_fabric
from qcore_hetero_diffq.budget.ledger import Ledger
from qcore_hetero_diffq.network import inputs_of, learned_grids, weights_of

Make = Callable[..., Any]
Row = dict[str, Any]
ARMS = ("mixed_2bit", "tensor_2bit", "chosen_2bit", "paper_2bit", "lsq_2bit", "uniform3")
EVERYTHING: dict[str, Any] = {"of": "both", "counting": "peak"}


class Setting:
    """One arm, ready to be trained as often as one likes."""

    def __init__(self, make: Make, network: Make, task: Task, arm: str, **options: Any) -> None:
        self.method, self.network, self.task, self.name = make(**options), network, task, arm
        self.arm = next(arm for arm in self.method.arms() if arm.name == self.name)
        rows = torch.arange(len(task.data.inputs))
        parts = (rows < 128, rows >= 128)
        self.data = FoldTensors(*(p[where] for where in parts for p in (task.data.inputs, task.data.targets)))

    def train(
        self,
        folder: Path | None = None,
        stop: int | None = None,
        change: Callable[[Phase], Phase] = lambda phase: phase,
    ) -> tuple[nn.Module, list[Row]]:
        """Train; stop as if killed once ``stop`` epochs are written."""
        model, done = self.network(self.method, self.name), 0

        def count(row: Row) -> None:
            nonlocal done
            done += 1
            if stop is not None and done > stop:
                raise KeyboardInterrupt

        file = None if folder is None else CheckpointFile(folder / "training.safetensors", every_s=0)
        history = fit(
            model,
            [change(phase) for phase in self.method.phases(self.arm)],
            self.data,
            self.task,
            generator=torch.Generator().manual_seed(1),
            fabric=make_fabric(),
            on_epoch=count,
            checkpoint=file,
        )
        return model, history.rows


def everything(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers, those that no file holds included."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


@pytest.mark.parametrize(
    ("arm", "options"),
    [
        ("mixed_2bit", EVERYTHING),
        ("mixed_2bit", {"activation_budget": "3bit", "every": 3}),
        ("mixed_2bit", {"weight": {"surrogate": "gaussian"}, "activation": {"surrogate": "uniform"}}),
        ("paper_2bit", {"weight": {"learn": "linear"}, "activation": {"learn": "linear"}, "quantizer_lr": 1e-3}),
        ("chosen_2bit", EVERYTHING),
        ("tensor_2bit", {}),
        ("uniform3", {}),
    ],
)
def test_stopped_after_any_epoch_it_goes_on_to_the_same_numbers(
    method: Make, network: Make, blobs: Task, tmp_path: Path, arm: str, options: dict[str, Any]
) -> None:
    """Multipliers, sensitivities, losses of inputs and counts of batches are all in the checkpoint."""
    setting = Setting(method, network, blobs, arm, **options)
    whole, rows = setting.train(tmp_path / "whole")
    expected = everything(whole)
    for stop in range(1, len(rows)) if options is EVERYTHING else (1, 3, len(rows) - 1):
        folder = tmp_path / f"stopped{stop}"
        with pytest.raises(KeyboardInterrupt):
            setting.train(folder, stop)
        resumed, again = setting.train(folder)
        assert again == rows, stop
        found = everything(resumed)
        assert set(found) == set(expected)
        assert not [name for name in expected if not torch.equal(found[name], expected[name])], stop


def test_what_the_choice_needs_is_in_the_checkpoint(method: Make, network: Make, blobs: Task, tmp_path: Path) -> None:
    setting = Setting(method, network, blobs, "mixed_2bit", **EVERYTHING, budgets=("1.3bit", "2bit"), ablations="2bit")
    with pytest.raises(KeyboardInterrupt):
        setting.train(tmp_path, 4)
    kept = CheckpointFile(tmp_path / "training.safetensors").read()
    assert kept is not None and not isinstance(kept, str)
    names = kept.part("model")
    for part in ("sensitivity", "seen", "losses", "batches", "is_signed", "ledger.multiplier", "ledger.stiffness"):
        found = [value for name, value in names.items() if name.endswith(part)]
        assert found, part
        if part in ("sensitivity", "seen", "losses", "batches"):
            assert any(value.any() for value in found), part


@pytest.mark.parametrize("arm", ARMS)
def test_a_training_is_the_same_each_time(method: Make, network: Make, blobs: Task, arm: str) -> None:
    setting = Setting(method, network, blobs, arm)
    state = torch.get_rng_state()
    (first, rows), (second, again) = setting.train(), setting.train()
    assert rows == again
    assert all(torch.equal(a, b) for a, b in zip(everything(first).values(), everything(second).values(), strict=True))
    assert torch.equal(torch.get_rng_state(), state)


class Steps:
    """Looks at all quantizers before and after each step of a phase."""

    def __init__(self) -> None:
        self.seen: dict[str, list[tuple[dict[str, Tensor], dict[str, Tensor], list[Tensor]]]] = {}

    def watch(self, phase: Phase) -> Phase:
        before: dict[str, Tensor] = {}

        def first(model: nn.Module, progress: Progress) -> None:
            if phase.before_step:
                phase.before_step(model, progress)
            before.clear()
            before.update(self.of(model))

        def last(model: nn.Module, progress: Progress) -> None:
            if phase.after_step:
                phase.after_step(model, progress)
            bits = [grid.bits().detach().clone() for grid in learned_grids(model)]
            self.seen.setdefault(phase.name, []).append((dict(before), self.of(model), bits))

        return replace(phase, before_step=first, after_step=last)

    @staticmethod
    def of(model: nn.Module) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in model.named_parameters() if "_quantizer." in name}

    def moved(self, phase: str) -> list[set[str]]:
        """Return the parameters that each step of a phase moves."""
        return [
            {name for name in before if not torch.equal(before[name], after[name])}
            for before, after, _ in self.seen[phase]
        ]


@pytest.mark.parametrize("learn", ["log", "linear"])
@pytest.mark.parametrize("options", [{}, EVERYTHING])
def test_each_phase_moves_what_it_may(
    method: Make, network: Make, blobs: Task, learn: str, options: dict[str, Any]
) -> None:
    own = {"weight": {"learn": learn}, "activation": {"learn": learn, "batches": 2}}
    steps, rate = Steps(), 2e-2 if learn == "log" else 1e-3
    setting = Setting(method, network, blobs, "mixed_2bit", **own, **options, every=3, quantizer_lr=rate)
    setting.train(change=steps.watch)
    assert set(steps.seen) == {"homogeneous", "mixed", "tune"}
    calibrating, *rest = steps.moved("homogeneous")[1:]
    assert all("input_quantizer" in name for name in calibrating)
    assert not any(rest), "after its batches nothing tells a range any more"
    mixed = steps.moved("mixed")
    assert all(not moved for step, moved in enumerate(mixed) if (step + 1) % 3)
    assert all(moved for step, moved in enumerate(mixed) if (step + 1) % 3 == 0)
    tune = steps.moved("tune")
    assert all("step" in name.rpartition(".")[2] for moved in tune for name in moved)
    assert any(tune)
    widths = [bits for _, _, bits in steps.seen["tune"]]
    for bits in widths[1:]:
        assert all(torch.equal(mine, first) for mine, first in zip(bits, widths[0], strict=True))


def test_between_its_steps_the_quantizers_optimizer_stands_still(method: Make, network: Make, blobs: Task) -> None:
    """With momentum, gradients set to zero would let it drift: paper's code does, and says so nowhere."""
    steps = Steps()
    options = {"quantizer_optimizer": "rmsprop", "quantizer_lr": 1e-3, "momentum": 0.9}
    Setting(method, network, blobs, "mixed_2bit", every=4, **options).train(change=steps.watch)
    mixed = steps.moved("mixed")
    assert [step for step, moved in enumerate(mixed) if moved] == list(range(3, len(mixed), 4))


def test_the_mixed_phase_changes_widths_and_the_last_keeps_the_budget(method: Make, network: Make, blobs: Task) -> None:
    model, rows = Setting(method, network, blobs, "mixed_2bit", mixed_epochs=8, every=1).train()
    told = [row["observed"] for row in rows if row["phase"] == "mixed"]
    assert told[0]["bits"] > told[-1]["bits"], "it begins two bits above the budget"
    ledger = Ledger.of(model)
    assert not ledger.rules.usage(model).exceeds(ledger.limits)
    assert all(bool((quantizer.level > 0).all()) for _, quantizer in weights_of(model).values())
    assert all(quantizer.batches == quantizer.config.batches for quantizer in inputs_of(model).values())
    (first, *later) = (row["observed"] for row in rows if row["phase"] == "tune")
    assert {path: sum(counts.values()) for path, counts in first["counts"].items()} == {
        path: len(widths) for path, widths in first["widths"].items()
    }
    assert later and all("widths" not in row and row["counts"] == first["counts"] for row in later), "they stand still"


def test_widths_are_those_of_the_levels_that_are_allowed(method: Make, network: Make, blobs: Task) -> None:
    model, _ = Setting(method, network, blobs, "mixed_3bit", levels=(2, 4, 8)).train()
    for _, quantizer in weights_of(model).values():
        assert set(quantizer.row_bits().tolist()) <= {2, 4, 8}


def test_ranges_are_not_told_anew_after_the_choice(method: Make, network: Make, blobs: Task) -> None:
    """A training of fewer steps than batches that tell ranges: what the choice set stays."""
    steps = Steps()
    options = {"activation": {"batches": 1000}, "of": "both"}
    Setting(method, network, blobs, "mixed_3bit", **options).train(change=steps.watch)
    for moved in steps.moved("tune"):
        assert not any(name.endswith("input_quantizer.range") for name in moved)
