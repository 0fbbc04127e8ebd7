"""MixtureOfExperts: each expert is called once, with its own rows, and the output is the weighted sum."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import qcore
from qcore.errors import ConfigError
from qcore.nn import MixtureOfExperts, load_balance
from qcore.routers import Router, RouterConfig, Routing


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Given(Router):
    """Routes by weights that the test hands in."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__(RouterConfig(in_features=1, experts=weights.shape[1]))
        self.weights = weights
        self.seen: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> Routing:
        self.seen = x
        return Routing(self.weights, self.weights)


class Expert(nn.Module):
    """Multiplies by a number and counts its calls."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.batches: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        return x * self.factor


def mixture(weights: torch.Tensor, trunk: nn.Module | None = None) -> MixtureOfExperts:
    return MixtureOfExperts([Expert(10.0**i) for i in range(weights.shape[1])], Given(weights), trunk)


@given(seed=st.integers(0, 2**32), rows=st.integers(0, 7), experts=st.integers(1, 4))
def test_the_output_is_the_weighted_sum_of_the_experts_outputs(seed: int, rows: int, experts: int) -> None:
    weights = normal(rows, experts, seed=seed).relu()
    x = normal(rows, 3)
    model = mixture(weights)
    expected = sum((weights[:, i : i + 1] * x * 10.0**i for i in range(experts)), torch.zeros(rows, 3))
    assert torch.allclose(model(x), expected, rtol=1e-5)


def test_each_expert_is_called_once_with_its_rows_and_not_at_all_without_any() -> None:
    model = mixture(torch.tensor([[1.0, 0, 0], [0, 0, 1.0], [1.0, 0, 0]]))
    x = normal(3, 2)
    assert torch.equal(model(x), x * torch.tensor([[1.0], [100.0], [1.0]]))
    assert [expert.batches for expert in model.experts] == [[2], [], [1]]
    assert model.visits() == [2, 0, 1]


def test_an_empty_batch_and_weights_of_zeros_give_zeros() -> None:
    assert mixture(torch.zeros(0, 2))(torch.zeros(0, 5)).shape == (0, 5)
    assert mixture(torch.zeros(3, 2))(normal(3, 5)).tolist() == [[0] * 5] * 3
    some = mixture(torch.tensor([[0.0, 0.0], [1.0, 0.0]]))(torch.ones(2, 1))
    assert some.tolist() == [[0], [1]]


def test_the_trunk_is_computed_once_and_the_router_sees_what_came_in() -> None:
    trunk = Expert(2.0)
    model = mixture(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), trunk)
    x = normal(2, 3)
    assert torch.allclose(model(x), x * torch.tensor([[11.0], [2.0]]))
    assert trunk.batches == [2]
    assert isinstance(model.router, Given)
    assert model.router.seen is x


def test_the_gradient_reaches_experts_and_router_through_the_weights() -> None:
    weights = torch.tensor([[0.25, 0.75]], requires_grad=True)
    model = mixture(weights)
    model(torch.tensor([[3.0]])).sum().backward()
    assert weights.grad is not None
    assert weights.grad.tolist() == [[3, 30]]
    assert [expert.factor.grad.item() for expert in model.experts] == [0.75, 2.25]  # type: ignore[union-attr]
    assert model.last_routing is not None
    assert model.last_routing.weights is weights


def test_a_copy_of_a_model_that_has_just_trained_has_no_routing() -> None:
    weights = normal(2, 2).requires_grad_() * 1
    model = mixture(torch.ones(2, 2))
    model(normal(2, 3))
    assert model.last_routing is not None
    model.last_routing = Routing(weights, weights)
    copied = copy.deepcopy(model)
    assert copied.last_routing is None
    assert model.last_routing.weights is weights
    assert copied.visits() == []
    assert torch.equal(copied(torch.ones(2, 1)), model(torch.ones(2, 1)))
    assert copied.experts[0] is not model.experts[0]


def test_as_many_experts_as_the_router_knows_are_needed() -> None:
    with pytest.raises(ConfigError, match="2 experts for a router of 3"):
        MixtureOfExperts([nn.Linear(2, 2)] * 2, Given(torch.zeros(1, 3)))


@pytest.mark.parametrize("quantized", [False, True])
def test_a_row_gets_the_same_expert_alone_and_in_a_batch(quantized: bool) -> None:
    router = qcore.get("router", "core/topk", in_features=16, experts=3, hidden=(8,))
    model = MixtureOfExperts([nn.Linear(16, 4) for _ in range(3)], router).eval()
    x = normal(40, 16)
    if quantized:
        token = "core/int(granularity='token')"
        made = qcore.quantize(model, {"*": {"weight": "core/int(bits=4)", "input": token}})
        assert isinstance(made, MixtureOfExperts)
        model = made
    model(x)
    assert model.last_routing is not None
    together = model.last_routing
    for row in range(40):
        model(x[row : row + 1])
        assert torch.equal(model.last_routing.weights[0], together.weights[row])
        assert torch.equal(model.last_routing.probabilities[0], together.probabilities[row])


def test_load_balance_is_one_when_balanced_and_the_number_of_experts_when_not() -> None:
    balanced = torch.eye(4)
    assert load_balance(Routing(balanced, torch.full((4, 4), 0.25))).item() == pytest.approx(1)
    one = torch.tensor([[1.0, 0, 0, 0]] * 5)
    assert load_balance(Routing(one, one)).item() == pytest.approx(4)
    probabilities = torch.softmax(normal(6, 3), dim=1).requires_grad_()
    load_balance(Routing(probabilities, probabilities)).backward()
    assert probabilities.grad is not None
    assert torch.isfinite(probabilities.grad).all()
