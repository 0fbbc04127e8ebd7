"""Learning rates, and the choice of widths before the last phase."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

import qcore
from qcore.errors import QcoreError, UsageError
from qcore.methods import Progress
from qcore_hetero_diffq.budget.ledger import Ledger, Limits
from qcore_hetero_diffq.network import inputs_of, learned_grids, weights_of
from qcore_hetero_diffq.observe import Watch, mean_bits, observe_budget
from qcore_hetero_diffq.schedule import Project, WarmCosine

Make = Callable[..., Any]
FIRST, SECOND = Progress(0, 10, 0, 2), Progress(1, 10, 0, 2)
LEVELS = (1, 2, 3, 4, 5, 6, 7, 8)


def trained(method: Make, network: Make, **options: Any) -> Any:
    model = network(method(**options), "mixed_2bit").train()
    x = torch.randn(32, 6, generator=torch.Generator().manual_seed(0))
    for grid in learned_grids(model):
        grid.watching = True
    model(x).square().sum().backward()
    return model


@pytest.mark.parametrize("warm", [0.0, 0.04, 0.5, 1.0])
def test_a_warm_up_is_linear_and_a_cosine_follows(warm: float) -> None:
    schedule = WarmCosine(warm)
    values = [schedule(step / 1000) for step in range(1001)]
    assert all(0 <= value <= 1 for value in values)
    assert schedule(warm / 2) == pytest.approx(0.5 if warm else 1.0)
    peak = values.index(max(values))
    assert values[:peak] == sorted(values[:peak]) and values[peak:] == sorted(values[peak:], reverse=True)


def test_widths_are_chosen_once(method: Make, network: Make) -> None:
    model = trained(method, network)
    project = Project(LEVELS, 32)
    project(model, SECOND)
    assert not any(quantizer.level.any() for _, quantizer in weights_of(model).values())
    project(model, FIRST)
    assert all(bool((quantizer.level > 0).all()) for _, quantizer in weights_of(model).values())
    assert not any(grid.watching for grid in learned_grids(model))
    ledger = Ledger.of(model)
    assert not ledger.rules.usage(model).exceeds(ledger.limits)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    project(model, SECOND)
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


def test_parameters_stay_those_that_optimizers_hold(method: Make, network: Make) -> None:
    model = trained(method, network, of="both")
    before = [id(parameter) for parameter in model.parameters()]
    Project(LEVELS, 32)(model, FIRST)
    assert [id(parameter) for parameter in model.parameters()] == before
    assert all(bool(quantizer.level > 0) for quantizer in inputs_of(model).values())


def test_a_file_that_grew_ends_the_training(method: Make, network: Make) -> None:
    model = trained(method, network)
    ledger = Ledger.of(model)
    ledger.limits = replace(ledger.limits, weights=100)
    with pytest.raises(QcoreError, match="the file grew"):
        Project(LEVELS, 32)(model, FIRST)


def test_a_network_without_a_budget_cannot_be_projected(method: Make, network: Make) -> None:
    with pytest.raises(UsageError, match="no budget"):
        Project(LEVELS, 32)(network(method(), "uniform3"), FIRST)


def test_after_an_epoch_widths_and_excess_are_plain_data(method: Make, network: Make) -> None:
    model = trained(method, network, of="both")
    watch = Watch(2)
    told = watch(model, FIRST)
    assert "widths" not in told and json.loads(json.dumps(told)) == told
    assert set(told["over"]) == set(told["multiplier"]) == {"both"}
    assert told["bits"] == pytest.approx(4, abs=1)
    Project(LEVELS, 32)(model, FIRST)
    last = watch(model, Progress(10, 10, 1, 2))
    assert {path: len(widths) for path, widths in last["widths"].items()} == {
        path: len(layer.weight) for path, (layer, _) in weights_of(model).items()
    }
    assert all(2 <= bits <= 8 for bits in last["inputs"].values())


def test_mean_bits_count_trits_as_they_are_stored(method: Make, network: Make) -> None:
    model = network(method(), "uniform2")
    assert mean_bits(model) == pytest.approx(1.6)
    assert mean_bits(network(method(), "uniform3")) == pytest.approx(3)


def test_what_claims_need_is_observed(method: Make, network: Make) -> None:
    model = trained(method, network)
    Project(LEVELS, 32)(model, FIRST)
    found = observe_budget(model)
    size = len(qcore.export.to_bytes(model.eval(), metadata=Ledger.of(model).rules.metadata))
    assert found["taken_weights"] == size <= found["limit_weights"] and found["counts_file"] == 1
    assert set(observe_budget(network(method(), "uniform3"))) == {"weight_bits"}
    assert observe_budget(network(method(), "float")) == {}
    assert Limits(weights=3, both=7).items() == [("weights", 3), ("both", 7)]
