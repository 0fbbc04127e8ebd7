"""The built-in routers: probabilities, choices, and rows that do not depend on each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import qcore
from qcore.errors import ConfigError
from qcore.routers import Router, Routing


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def topk(**options: Any) -> Router:
    router: Router = qcore.get("router", "core/topk", **({"in_features": 6, "experts": 4} | options))
    return router


def test_the_k_most_probable_experts_share_the_weight_in_eval_mode() -> None:
    routing = topk(k=2, hidden=(8,)).eval()(normal(10, 6))
    assert torch.allclose(routing.probabilities.sum(dim=1), torch.ones(10))
    assert (routing.weights != 0).sum(dim=1).tolist() == [2] * 10
    assert torch.allclose(routing.weights.sum(dim=1), torch.ones(10))
    chosen = routing.weights != 0
    lowest = torch.where(chosen, routing.probabilities, 2.0).amin(dim=1)
    assert bool((lowest >= torch.where(chosen, -1.0, routing.probabilities).amax(dim=1)).all())
    assert torch.equal(routing.experts, routing.probabilities.argmax(dim=1))


def test_one_expert_a_sample_has_the_weight_one_in_eval_mode() -> None:
    weights = topk(k=1).eval()(normal(10, 6)).weights
    assert weights.amax(dim=1).tolist() == [1] * 10


def test_in_training_the_weights_are_the_probabilities_so_that_the_gradient_reaches_the_router() -> None:
    router = topk(k=1).train()
    routing = router(normal(10, 6))
    chosen = routing.weights != 0
    assert torch.equal(routing.weights[chosen], routing.probabilities[chosen])
    routing.weights.sum().backward()
    for parameter in router.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


@given(seed=st.integers(0, 2**32), rows=st.integers(1, 33), scale=st.floats(1e-3, 1e3))
def test_a_rows_route_does_not_depend_on_its_batch_mates(seed: int, rows: int, scale: float) -> None:
    x = normal(rows, 6, seed=seed) * scale
    for router in (topk(k=2, hidden=(16, 8)).eval(), qcore.get("router", "core/uniform", in_features=6, experts=4)):
        together = router(x)
        for row in range(0, rows, 7):
            alone = router(x[row : row + 1])
            assert torch.equal(alone.weights[0], together.weights[row])
            assert torch.equal(alone.probabilities[0], together.probabilities[row])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("training", [True, False])
def test_routing_is_float32_whatever_the_model_is(dtype: torch.dtype, training: bool) -> None:
    for router in (topk(hidden=(8,)), qcore.get("router", "core/uniform", in_features=6, experts=4)):
        routing = router.to(dtype).train(training)(normal(3, 6).to(dtype))
        assert routing.weights.dtype == routing.probabilities.dtype == torch.float32


def test_uniform_gives_every_expert_the_same_weight() -> None:
    routing = qcore.get("router", "core/uniform", in_features=6, experts=4)(normal(3, 6))
    assert routing.weights.tolist() == routing.probabilities.tolist() == [[0.25] * 4] * 3
    assert routing.uncertainty is None


def test_an_empty_batch_is_routed() -> None:
    for router in (topk(), qcore.get("router", "core/uniform", in_features=6, experts=4)):
        assert router.eval()(torch.zeros(0, 6)).weights.shape == (0, 4)


def test_building_a_router_touches_no_global_state_and_can_be_repeated() -> None:
    before = torch.get_rng_state()
    routers = [topk(hidden=(8,)), topk(hidden=(8,))]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(*(router.parameters() for router in routers), strict=True))
    reset: Any = routers[1]
    reset.reset_parameters(torch.Generator().manual_seed(9))
    assert not torch.equal(next(routers[0].parameters()), next(routers[1].parameters()))


def test_more_experts_a_sample_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="k = 5"):
        topk(k=5)
    with pytest.raises(ConfigError, match="experts"):
        topk(experts=0)


def test_routers_know_where_they_came_from() -> None:
    assert topk().spec_id == "core/topk"
    assert topk().experts == 4
    topk().calibrate(normal(3, 6))


def test_the_lowest_index_wins_a_tie() -> None:
    tie = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    assert Routing(tie, tie).experts.tolist() == [0, 1]
