from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcore.errors import CalibrationError
from qcore_curiosity_moe.bayesian import BayesianRouter
from qcore_curiosity_moe.budget import Budget, meet_budget, spending
from qcore_curiosity_moe.config import BayesianRouterConfig

BITS = (1.6, 4.0, 8.0)


def inputs(rows: int = 400) -> Tensor:
    return torch.randn(rows, 10, generator=torch.Generator().manual_seed(1))


def make_router(seed: int = 0, **options: object) -> BayesianRouter:
    values = {"in_features": 10, "experts": 3, "bits": BITS, "hidden": (24, 16), **options}
    router = BayesianRouter(BayesianRouterConfig.model_validate(values)).eval()
    router.reset_parameters(torch.Generator().manual_seed(seed))
    with torch.no_grad():
        router.layer3.weight.mul_(3.0)
    router.calibrate(inputs())
    return router


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 100), st.floats(1.61, 8.0))
def test_mean_bits_keep_within_the_budget_and_use_it_up(seed: int, bits: float) -> None:
    router = make_router(seed)
    plain = spending(router(inputs()).experts, BITS)
    spent = meet_budget(router, inputs(), BITS, Budget(bits=bits))
    assert spent == spending(router(inputs()).experts, BITS)
    assert spent.bits <= bits
    a_few_rows = 20 * (max(BITS) - min(BITS)) / len(inputs())
    assert spent.bits > min(bits, plain.bits) - a_few_rows


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 100), st.floats(0.0, 1.0))
def test_the_share_of_the_most_precise_expert_keeps_within_the_budget(seed: int, share: float) -> None:
    router = make_router(seed)
    plain = spending(router(inputs()).experts, BITS)
    spent = meet_budget(router, inputs(), BITS, Budget(share=share))
    assert spent.share <= share
    assert spent.share > min(share, plain.share) - 0.03


def test_a_budget_that_is_not_reached_changes_nothing() -> None:
    router = make_router()
    before = router(inputs()).probabilities
    meet_budget(router, inputs(), BITS, Budget(bits=8.0))
    assert float(router.bias) == 0.0
    assert torch.equal(router(inputs()).probabilities, before)


def test_alpha_meets_a_budget_above_what_routing_without_a_prior_spends() -> None:
    router = make_router()
    router.alpha.zero_()
    plain = spending(router(inputs()).experts, BITS)
    budget = Budget(bits=plain.bits + 0.5)
    spent = meet_budget(router, inputs(), BITS, budget, "alpha")
    assert plain.bits < spent.bits <= budget.bits
    assert float(router.alpha) > 0
    assert float(router.bias) == 0


def test_a_budget_that_alpha_cannot_meet_is_refused_and_nothing_changes() -> None:
    router = make_router(alpha=2.0)
    with pytest.raises(CalibrationError, match=r"cannot be met.*\n.*budget_knob=bias"):
        meet_budget(router, inputs(), BITS, Budget(bits=1.7), "alpha")
    assert float(router.alpha) == 2.0


def test_a_budget_below_every_expert_is_refused() -> None:
    with pytest.raises(CalibrationError, match="at most 1 mean bits cannot be met"):
        meet_budget(make_router(), inputs(), BITS, Budget(bits=1.0))


def test_unsure_rows_keep_their_precision_longest_when_the_budget_shrinks() -> None:
    router = make_router(alpha=4.0)
    meet_budget(router, inputs(), BITS, Budget(bits=2.5))
    with_curiosity = router(inputs())
    router.alpha.zero_()
    meet_budget(router, inputs(), BITS, Budget(bits=2.5))
    without = router(inputs())
    unsure = with_curiosity.extras["normalised"] > 0.7
    widths = torch.tensor(BITS)
    assert widths[with_curiosity.experts[unsure]].mean() > widths[without.experts[unsure]].mean()


def test_spending_counts_bits_and_the_share_of_the_widest() -> None:
    spent = spending(torch.tensor([0, 2, 2, 1]), BITS)
    assert spent.bits == pytest.approx((1.6 + 8 + 8 + 4) / 4)
    assert spent.share == 0.5
