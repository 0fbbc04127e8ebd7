from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qcore.errors import QcoreError
from qcore.nn import Dropout
from qcore.tasks.base import Task, TaskData
from qcore.training import FoldTensors, History, fit, make_fabric
from qcore.training.phases import OptimizerConfig, Phase, Progress

ROWS = 60


class TwoBlobs(Task):
    """Two classes that a line separates."""

    def load(self) -> TaskData:
        targets = torch.arange(ROWS) % 2
        inputs = torch.randn(ROWS, 3, generator=torch.Generator().manual_seed(0)) + 2.0 * targets.unsqueeze(1)
        return TaskData(inputs=inputs, targets=targets, class_names=("a", "b"))


def data(validation: int = 20) -> FoldTensors:
    found = TwoBlobs().data
    cut = ROWS - validation
    return FoldTensors(found.inputs[:cut], found.targets[:cut], found.inputs[cut:], found.targets[cut:])


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Dropout(0.2), nn.Linear(4, 2))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.5, 0.5, generator=generator)
    return model


def train(model: nn.Module, *phases: Phase, seed: int = 0, **options: Any) -> History:
    options.setdefault("data", data())
    generator = torch.Generator().manual_seed(seed)
    return fit(model, phases, task=TwoBlobs(), generator=generator, fabric=make_fabric("cpu"), **options)


def phase(**options: Any) -> Phase:
    usual = {"name": "main", "epochs": 3, "batch_size": 16, "optimizers": (OptimizerConfig(lr=0.05),)}
    return Phase(**{**usual, **options})


def weights(model: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def test_training_lowers_the_loss_and_leaves_the_model_in_eval_mode() -> None:
    model = network()
    history = train(model, phase(epochs=8))
    assert history.rows[-1]["train_loss"] < history.rows[0]["train_loss"] / 2
    assert history.rows[-1]["validation"] > 0.9
    assert not model.training
    assert [row["epoch"] for row in history.rows] == list(range(1, 9))


def test_one_generator_gives_the_same_weights_bit_for_bit_and_another_does_not() -> None:
    first, second, third = network(), network(), network()
    histories = [train(first, phase()), train(second, phase())]
    train(third, phase(), seed=1)
    assert torch.equal(weights(first), weights(second))
    assert histories[0].rows == histories[1].rows
    assert not torch.equal(weights(first), weights(third))


def test_the_global_random_state_is_neither_read_nor_changed() -> None:
    first, second = network(), network()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    train(first, phase())
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    train(second, phase())
    assert torch.equal(weights(first), weights(second))


def test_no_phase_leaves_the_weights_as_they_are() -> None:
    model = network()
    before = weights(model)
    history = train(model)
    assert torch.equal(weights(model), before)
    assert history.epochs == 0


def test_patience_ends_a_phase_and_the_best_epoch_is_restored() -> None:
    seen: list[Tensor] = []

    def spoil(model: nn.Module, progress: Progress) -> None:
        # from the third epoch on the weights are ruined, so the second epoch is the best
        if progress.epoch >= 2:
            for parameter in model.parameters():
                parameter.zero_()

    model = network()
    spoiled = phase(epochs=50, patience=3, after_step=spoil)
    history = train(model, spoiled, on_epoch=lambda row: seen.append(weights(model).clone()))
    best = history.best["main"]
    assert best <= 2
    assert history.epochs == best + 3
    assert torch.equal(weights(model), seen[best - 1])


def test_without_restore_best_the_last_epoch_s_weights_stay() -> None:
    seen: list[Tensor] = []
    model = network()
    history = train(model, phase(restore_best=False), on_epoch=lambda row: seen.append(weights(model).clone()))
    assert torch.equal(weights(model), seen[-1])
    assert history.best["main"] == 3


def test_without_a_validation_part_training_goes_to_the_end() -> None:
    history = train(network(), phase(patience=1), data=data(validation=0))
    assert [row["validation"] for row in history.rows] == [None, None, None]


def test_early_stopping_looks_at_the_validation_part_alone() -> None:
    # with the validation targets turned round, the best epoch is the one that the wrong labels like best
    turned = replace(data(), validation_targets=1 - data().validation_targets)
    history = train(network(), phase(epochs=6), data=turned)
    best = max(history.rows, key=lambda row: row["validation"])
    assert history.best["main"] == best["epoch"]
    assert history.rows[-1]["validation"] < 0.5


def test_a_phase_trains_only_what_it_says() -> None:
    model = network()
    before = model[0].weight.detach().clone()
    train(model, phase(trainable=lambda name: name.startswith("3.")))
    assert torch.equal(model[0].weight, before)
    assert model[3].weight.grad is not None


def test_steps_are_announced_in_order_and_projections_run_after_each() -> None:
    seen: list[Progress] = []

    def clip(model: nn.Module, progress: Progress) -> None:
        for parameter in model.parameters():
            parameter.clamp_(-0.1, 0.1)

    model = network()
    train(model, phase(epochs=2, before_step=lambda model, progress: seen.append(progress), after_step=clip))
    assert [progress.step for progress in seen] == list(range(6))
    assert {progress.steps for progress in seen} == {6}
    assert seen[0].fraction == 0.0 and seen[-1].fraction < 1.0
    assert weights(model).abs().max() <= 0.1 + 1e-7


def test_a_penalty_is_part_of_the_loss() -> None:
    def size(model: nn.Module) -> Tensor:
        return torch.stack([parameter.square().sum() for parameter in model.parameters()]).sum()

    free, held = network(), network()
    train(free, phase())
    train(held, phase(epochs=20, restore_best=False, penalty=lambda model: 10.0 * size(model)))
    assert weights(held).norm() < weights(free).norm() / 2


def test_gradients_are_clipped_to_the_norm_asked_for() -> None:
    sgd = (OptimizerConfig(name="sgd", lr=1.0),)
    model = network()
    before = weights(model)
    train(model, phase(epochs=1, batch_size=ROWS, optimizers=sgd, grad_clip=1e-3, restore_best=False))
    assert (weights(model) - before).norm() == pytest.approx(1e-3, rel=1e-2)


def test_an_optimizer_with_every_steps_at_the_last_of_so_many_and_remembers_nothing_between() -> None:
    seen: list[Tensor] = []

    def note(model: nn.Module, progress: Progress) -> None:
        seen.append(torch.cat([parameter.detach().flatten() for parameter in model[3].parameters()]).clone())

    heads = OptimizerConfig(lr=0.05, params="3.*", every=3)
    train(model := network(), phase(optimizers=(heads, OptimizerConfig(lr=0.05)), after_step=note, restore_best=False))
    start = torch.cat([parameter.detach().flatten() for parameter in network()[3].parameters()])
    moved = [not torch.equal(a, b) for a, b in zip([start, *seen[:-1]], seen, strict=True)]
    assert moved == [(step + 1) % 3 == 0 for step in range(9)]
    assert not torch.equal(weights(model)[:12], weights(network())[:12])


def test_gradients_are_shown_before_they_are_clipped() -> None:
    seen: list[float] = []

    def look(model: nn.Module, progress: Progress) -> None:
        norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
        seen.append(float(norm))
        for parameter in model.parameters():
            parameter.grad = torch.zeros_like(parameter)

    train(
        model := network(),
        phase(epochs=1, grad_clip=1e-6, after_backward=look, optimizers=(OptimizerConfig(name="sgd", lr=0.05),)),
    )
    assert min(seen) > 1e-3
    assert torch.equal(weights(model), weights(network()))


def test_a_loss_that_is_not_finite_names_phase_epoch_and_step() -> None:
    def blow_up(model: nn.Module) -> Tensor:
        return torch.tensor(float("nan"))

    with pytest.raises(QcoreError, match=r"nan in phase 'main', epoch 1, step 1"):
        train(network(), phase(penalty=blow_up))


def test_scalers_are_fitted_on_the_training_part_before_the_first_phase() -> None:
    seen: list[tuple[int, int]] = []

    class Scaled(nn.Sequential):
        def fit_scalers(self, inputs: Tensor, targets: Tensor) -> None:
            seen.append((len(inputs), len(targets)))

    train(Scaled(*network()), phase(epochs=1), phase(name="more", epochs=1))
    assert seen == [(40, 40)]


def test_training_batches_are_augmented_from_a_stream_of_their_own_and_arms_draw_the_same() -> None:
    class Jittered(TwoBlobs):
        seen: list[Tensor]

        def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
            changed = inputs + torch.randn(inputs.shape, generator=generator)
            self.seen.append(changed)
            return changed

    drawn = []
    for model in (network(), nn.Sequential(nn.Linear(3, 2))):
        task = Jittered()
        task.seen = []
        generator = torch.Generator().manual_seed(0)
        fit(model, [phase(epochs=2)], data(), task, generator=generator, fabric=make_fabric("cpu"))
        drawn.append(task.seen)
    assert len(drawn[0]) == 6
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))
    assert not torch.equal(drawn[0][0], drawn[0][3])


def test_images_of_bytes_reach_the_network_as_floats() -> None:
    whole = data()
    as_bytes = FoldTensors(
        (whole.train_inputs * 10 + 100).to(torch.uint8),
        whole.train_targets,
        (whole.validation_inputs * 10 + 100).to(torch.uint8),
        whole.validation_targets,
    )
    seen: set[torch.dtype] = set()
    model = network()
    model.register_forward_pre_hook(lambda module, args: seen.add(args[0].dtype))
    train(model, phase(epochs=1), data=as_bytes)
    assert seen == {torch.float32}


def test_what_is_observed_after_an_epoch_stands_in_its_row() -> None:
    def look(model: nn.Module, progress: Progress) -> dict[str, Any]:
        assert not torch.is_grad_enabled()
        return {"epoch": progress.epoch, "weights": weights(model).tolist()}

    model = network()
    history = train(model, phase(restore_best=False, after_epoch=look))
    assert [row["observed"]["epoch"] for row in history.rows] == [0, 1, 2]
    assert history.rows[-1]["observed"]["weights"] == weights(model).tolist()


def test_mixed_precision_keeps_weights_and_evaluation_in_float32() -> None:
    seen: set[tuple[bool, torch.dtype]] = set()

    class Watched(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            seen.add((self.training, y.dtype))
            return y

    layer = Watched(3, 2)
    fit(
        nn.Sequential(layer),
        [phase(epochs=1)],
        data(),
        TwoBlobs(),
        generator=torch.Generator().manual_seed(0),
        fabric=make_fabric("cpu", "bf16-mixed"),
    )
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}
    assert layer.weight.dtype == torch.float32


def test_a_fabric_is_made_in_silence():
    script = "from qcore.training import make_fabric; make_fabric('cpu', 'bf16-mixed')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
