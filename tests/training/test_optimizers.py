from __future__ import annotations

import pytest
import torch
from torch import nn

from qcore.errors import UsageError
from qcore.training.optimizers import make_optimizers, set_schedules, set_trainable
from qcore.training.phases import OptimizerConfig, Phase


def model() -> nn.Module:
    return nn.ModuleDict({"stem": nn.Linear(2, 2), "head": nn.Linear(2, 2)})


def phase(*optimizers: OptimizerConfig, **options: object) -> Phase:
    return Phase(name="main", epochs=1, optimizers=optimizers, **options)  # type: ignore[arg-type]


def test_the_first_matching_glob_takes_a_parameter() -> None:
    made = make_optimizers(
        set_trainable(network := model(), phase()),
        phase(OptimizerConfig(params="head.*", lr=0.1), OptimizerConfig(name="sgd", lr=0.2)),
    )
    heads, rest = ([id(p) for p in optimizer.param_groups[0]["params"]] for _, optimizer in made)
    named = {id(p): name for name, p in network.named_parameters()}
    assert [named[i] for i in heads] == ["head.weight", "head.bias"]
    assert [named[i] for i in rest] == ["stem.weight", "stem.bias"]
    assert [type(optimizer) for _, optimizer in made] == [torch.optim.AdamW, torch.optim.SGD]


def test_a_parameter_that_no_optimizer_takes_is_an_error_that_names_it() -> None:
    with pytest.raises(UsageError, match=r"stem\.weight"):
        make_optimizers(set_trainable(model(), phase()), phase(OptimizerConfig(params="head.*")))


def test_trainable_decides_what_has_a_gradient_and_a_later_phase_decides_anew() -> None:
    network = model()
    chosen = set_trainable(network, phase(trainable=lambda name: name.startswith("head")))
    assert [name for name, _ in chosen] == ["head.weight", "head.bias"]
    assert not any(p.requires_grad for p in network["stem"].parameters())  # type: ignore[index]
    assert len(set_trainable(network, phase())) == 4


def test_a_phase_that_trains_nothing_is_an_error() -> None:
    with pytest.raises(UsageError, match="main"):
        set_trainable(model(), phase(trainable=lambda name: False))


def test_schedules_multiply_rate_and_decay_by_the_fraction_done() -> None:
    config = OptimizerConfig(
        lr=0.1, weight_decay=0.01, lr_schedule=lambda f: 1 - f, weight_decay_schedule=lambda f: float(f < 0.5)
    )
    made = make_optimizers(set_trainable(model(), phase()), phase(config))
    group = made[0][1].param_groups[0]
    set_schedules(made, 0.25)
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(0.075), 0.01)
    set_schedules(made, 0.5)
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(0.05), 0.0)


def test_rmsprop_has_its_smoothing_eps_and_momentum() -> None:
    config = OptimizerConfig(name="rmsprop", lr=0.1, momentum=0.9, smoothing=0.8, eps=1e-2, weight_decay=1e-4)
    [(_, made)] = make_optimizers(set_trainable(model(), phase()), phase(config))
    assert isinstance(made, torch.optim.RMSprop)
    group = made.param_groups[0]
    assert (group["alpha"], group["eps"], group["momentum"], group["weight_decay"]) == (0.8, 1e-2, 0.9, 1e-4)
