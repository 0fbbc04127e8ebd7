"""How many numbers the inputs of layers have, and when they live."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qcore
from qcore_hetero_diffq.budget.activations import ActivationSizes, trace_inputs

RULES = {"weight": "hetero_diffq/sliced", "input": "hetero_diffq/activation"}


def traced(model: nn.Module, *shape: int) -> ActivationSizes:
    return trace_inputs(qcore.quantize(model, {"*": RULES}), torch.ones(1, *shape))


def test_numbers_are_those_of_one_sample() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5))
    sizes = traced(model, 3, 8, 8)
    assert sizes.counts == {"0": 3 * 64, "3": 36}
    batch = trace_inputs(qcore.quantize(model, {"*": RULES}), torch.ones(7, 3, 8, 8))
    assert batch.counts == sizes.counts


def test_in_a_chain_neighbours_live_together() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 7))
    sizes = traced(model, 4)
    assert set(sizes.together) <= {frozenset("02"), frozenset("24"), frozenset("0"), frozenset("2"), frozenset("4")}
    widths = {"0": 1.0, "2": 2.0, "4": 8.0}
    assert sizes.nbits(widths, "sum") == 4 + 10 + 48
    assert sizes.nbits(widths, "max") == 48
    assert 48 <= sizes.nbits(widths, "peak") <= 58


class Added(nn.Module):
    """A skip connection over one layer: its own input lives until the addition."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        kept = torch.relu(self.first(x))
        y = torch.relu(self.second(kept))
        y = torch.relu(y)
        return self.third(y + kept)


def test_a_residual_addition_keeps_an_input_alive() -> None:
    sizes = traced(Added(), 8)
    assert sizes.counts == {"first": 8, "second": 8, "third": 8}
    assert any({"second", "third"} <= live for live in sizes.together)
    assert not any({"first", "third"} <= live for live in sizes.together)


class Twice(nn.Module):
    """One layer that runs on inputs of two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x)[:, :, ::2, ::2])


def test_of_a_layer_that_runs_twice_the_larger_input_counts() -> None:
    assert traced(Twice(), 1, 6, 6).counts == {"layer": 36}


def test_two_layers_may_share_an_input() -> None:
    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.left(x) + self.right(x)

    assert traced(Fork(), 4).together == (frozenset({"left", "right"}),)


def test_the_network_is_left_as_it_was(net: Callable[..., Any]) -> None:
    found = net("conv", 6)
    model = found.model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hooks = [len(module._forward_pre_hooks) for module in model.modules()]
    modules = list(model.modules())
    again = trace_inputs(model, found.x[:1])
    assert again == found.sizes
    assert all(module.training for module in modules) and list(model.modules()) == modules
    assert hooks == [len(module._forward_pre_hooks) for module in model.modules()]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_failure_leaves_it_as_it_was_too() -> None:
    model = qcore.quantize(nn.Sequential(nn.Linear(4, 3)), {"*": RULES}).train()
    with pytest.raises(RuntimeError):
        trace_inputs(model, torch.ones(1, 5))
    assert model.training and model[0].input_quantizer is not None and not model[0]._forward_pre_hooks


def test_of_nothing_nothing_is_counted() -> None:
    sizes = trace_inputs(nn.Sequential(nn.Linear(4, 3)), torch.ones(1, 4))
    assert sizes.counts == {} and [sizes.nbits({}, counting) for counting in ("sum", "max", "peak")] == [0, 0, 0]
