"""Resident models under the core's own loop."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, distributed, nn

from qcore.nn.init import conv2d, linear
from qcore.tasks import Task, TaskData
from qcore.training import FoldTensors, History, fit, make_fabric
from qcore.training.phases import OptimizerConfig, Phase
from qcore_true4bit.resident import ResidentConfig, ResidentLayer, ResidentLinear, ResidentRates, make_resident

ROWS, KEPT = 600, 150


class Stripes(Task):
    """Pictures of noise with a bright row or a bright column."""

    def load(self) -> TaskData:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(ROWS, 1, 8, 8, generator=generator)
        targets = torch.arange(ROWS) % 2
        for picture, target, place in zip(inputs, targets, torch.randint(8, (ROWS,), generator=generator), strict=True):
            (picture[0, place] if target else picture[0, :, place]).add_(2.5)
        return TaskData(inputs=inputs, targets=targets, class_names=("column", "row"))


def network() -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    first, second = conv2d(1, 8, 3, generator, padding=1), conv2d(8, 16, 3, generator, padding=1)
    body = [first, nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), second, nn.BatchNorm2d(16), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveMaxPool2d(1), nn.Flatten(), linear(16, 2, generator))


def cosine(fraction: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * fraction))


def train(model: nn.Module, lr: float = 0.3, **options: object) -> History:
    found = Stripes().data
    data = FoldTensors(found.inputs[KEPT:], found.targets[KEPT:], found.inputs[:KEPT], found.targets[:KEPT])
    adamw = OptimizerConfig(lr=3e-3, lr_schedule=cosine)
    rates = ResidentRates(lr, cosine, 0.02)
    phase = Phase(name="main", epochs=12, batch_size=32, optimizers=(adamw,), before_step=rates, restore_best=False)
    generator = torch.Generator().manual_seed(2)
    return fit(model, [replace(phase, **options)], data, Stripes(), generator=generator, fabric=make_fabric("cpu"))


def codes(model: nn.Module) -> Tensor:
    return torch.cat([layer.codes.flatten() for layer in model.modules() if isinstance(layer, ResidentLayer)])


@pytest.mark.parametrize("residual", [True, False])
def test_4_bit_weights_learn_from_scratch_in_the_cores_loop(residual: bool) -> None:
    model = make_resident(network(), ResidentConfig(residual=residual), torch.Generator())
    frozen = make_resident(network(), ResidentConfig(residual=residual), torch.Generator())
    learnt, without = train(model).rows[-1], train(frozen, lr=0.0).rows[-1]
    assert learnt["validation"] >= 0.95
    assert learnt["train_loss"] < 0.5 * without["train_loss"]


def test_equal_seeds_train_equal_codes() -> None:
    models = [make_resident(network(), ResidentConfig(), torch.Generator()) for _ in range(2)]
    for model in models:
        train(model, epochs=2)
    assert torch.equal(codes(models[0]), codes(models[1]))


def test_the_best_epoch_is_restored() -> None:
    model = make_resident(network(), ResidentConfig(), torch.Generator())
    history = train(model, epochs=4, restore_best=True)
    with torch.no_grad():
        scores = Stripes().scores(model(Stripes().data.inputs[:KEPT]), Stripes().data.targets[:KEPT])
    assert scores[Stripes().metric] == pytest.approx(max(row["validation"] for row in history.rows))


def test_gradients_are_averaged_over_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    def layer() -> ResidentLinear:
        return ResidentLinear(linear(6, 4, torch.Generator().manual_seed(0)), ResidentConfig(), torch.Generator())

    here, there = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(1))
    alone, ranked = layer(), layer()
    (alone(torch.cat([here, there])).sum() / 2).backward()

    def all_reduce(gradient: Tensor) -> None:
        gradient += there.sum(0).expand(4, 6)

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    ranked(here).sum().backward()
    assert torch.equal(alone.codes, ranked.codes)
    assert torch.allclose(alone.moments.first_peaks, ranked.moments.first_peaks)
