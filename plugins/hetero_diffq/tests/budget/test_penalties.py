"""What being over a limit costs: nothing below it, its square above."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from qcore.methods import Progress
from qcore_hetero_diffq.budget.ledger import Ledger, Limits, Rules
from qcore_hetero_diffq.budget.penalties import STIFFEST, AugmentedLagrangian, Keep, SquaredHinge, clip_to_step
from qcore_hetero_diffq.network import learned_grids
from qcore_hetero_diffq.schedule import Mixed

Make = Callable[..., Any]


def priced(net: Make, over: float, *, smooth: bool = False, **limits: float) -> SimpleNamespace:
    """Return a network whose ``weights`` take ``1 + over`` times their limit, by derived or by smooth widths."""
    found = net("mlp", 12)
    probe = Ledger(Limits(weights=1), Rules(found.sizes), 0, 1.0)
    taken = float(probe.weight_nbytes(found.model, smooth=smooth).detach())
    if smooth:
        ledger = Ledger(Limits(weights=taken / (1 + over), **limits), Rules(found.sizes), 0, 1.0)
    else:
        ledger = Ledger(Limits(weights=1000, **limits), Rules(found.sizes), 0, 1.0)
        ledger.base_nbytes = 1000 * (1 + over) - taken  # to the letter
    ledger.attach(found.model)
    return SimpleNamespace(model=found.model, ledger=ledger)


def value(found: SimpleNamespace, penalty: Any) -> float:
    return float(penalty(found.model).detach())


@pytest.mark.parametrize("penalty", [SquaredHinge(0.5), AugmentedLagrangian()])
def test_below_the_limit_it_costs_nothing_and_moves_nothing(net: Make, penalty: Any) -> None:
    for over in (-0.9, -0.3, -0.001):
        found = priced(net, over, smooth=isinstance(penalty, AugmentedLagrangian))
        assert value(found, penalty) == 0
        for grid in learned_grids(found.model):
            grid.zero_grad()
        penalty(found.model).backward()
        assert not any(grid.step.grad is not None and grid.step.grad.any() for grid in learned_grids(found.model))


@pytest.mark.parametrize("over", [0.01, 0.2, 3.0])
def test_above_it_costs_the_square(net: Make, over: float) -> None:
    assert value(priced(net, over), SquaredHinge(0.5)) == pytest.approx(0.5 * over**2, rel=1e-2)  # 1000 bytes are 1 kB
    assert value(priced(net, over, smooth=True), AugmentedLagrangian()) == pytest.approx(over**2 / 2, rel=1e-2)


@pytest.mark.parametrize("penalty", [SquaredHinge(0.5), AugmentedLagrangian()])
def test_it_rises(net: Make, penalty: Any) -> None:
    smooth = isinstance(penalty, AugmentedLagrangian)
    costs = [value(priced(net, over, smooth=smooth), penalty) for over in (-0.5, 0.0, 0.1, 0.4, 0.9, 5.0)]
    assert costs == sorted(costs) and len(set(costs)) >= 5


def test_the_ramp_scales_the_papers_penalty(net: Make) -> None:
    found = priced(net, 0.5)
    whole = value(found, SquaredHinge(1.0))
    found.ledger.ramp.fill_(0.01)
    assert value(found, SquaredHinge(1.0)) == pytest.approx(0.01 * whole, rel=1e-5)


def test_the_ramp_rises_over_the_first_half_and_every_kth_step_is_watched(net: Make) -> None:
    found = priced(net, 0.5)
    seen = []
    for step in range(100):
        Mixed(5, 0.01)(found.model, Progress(step, 100, 0, 1))
        seen.append((float(found.ledger.ramp), {grid.watching for grid in learned_grids(found.model)}))
    assert seen[0][0] == pytest.approx(0.01)
    assert [ramp for ramp, _ in seen] == sorted(ramp for ramp, _ in seen)
    assert seen[49][0] < 1 and all(ramp == 1 for ramp, _ in seen[50:])
    assert [step for step, (_, watching) in enumerate(seen) if watching == {True}] == list(range(4, 100, 5))


def test_limits_add_up(net: Make) -> None:
    alone, with_inputs = priced(net, 0.5), priced(net, 0.5, activations=1)
    inputs = float(with_inputs.ledger.activation_nbytes(with_inputs.model).detach())
    extra = value(with_inputs, SquaredHinge(1.0)) - value(alone, SquaredHinge(1.0))
    assert extra == pytest.approx(((inputs - 1) / 1000) ** 2, rel=1e-2, abs=1e-6)


def test_a_multiplier_prices_what_is_just_at_the_limit(net: Make) -> None:
    found = priced(net, 0.0, smooth=True)
    found.ledger.multiplier.fill_(0.7)
    for grid in learned_grids(found.model):
        grid.zero_grad()
    AugmentedLagrangian()(found.model).backward()
    assert any(grid.step.grad.any() for grid in learned_grids(found.model) if grid.step.grad is not None)
    expected = {over: (max(0.7 + over, 0) ** 2 - 0.49) / 2 for over in (-0.8, -0.1, 0.3)}
    for over, cost in expected.items():
        other = priced(net, over, smooth=True)
        other.ledger.multiplier.fill_(0.7)
        assert value(other, AugmentedLagrangian()) == pytest.approx(cost, rel=1e-2)


def test_the_aim_glides_from_what_is_taken_to_the_limit_less_its_margin(net: Make) -> None:
    found = priced(net, 0.25, smooth=True)
    limit = 900_000
    ledger = Ledger(Limits(weights=limit), found.ledger.rules, limit, 1.0)
    taken = float(ledger.taken(found.model, "weights", smooth=True).detach())
    assert taken > limit
    ledger.glide(found.model, 0.0, 0.05)
    assert float(ledger.aim) == pytest.approx(taken)
    ledger.base_nbytes = 0  # what is taken now no longer matters: the glide began
    ledger.glide(found.model, 0.5, 0.05)
    assert float(ledger.aim) == pytest.approx((taken + 0.95 * limit) / 2)
    ledger.glide(found.model, 1.0, 0.05)
    assert float(ledger.aim) == pytest.approx(0.95 * limit)


def test_the_aim_stays_above_the_narrowest_widths(net: Make) -> None:
    found = priced(net, 0.25, smooth=True)
    ledger = Ledger(Limits(weights=1), found.ledger.rules, 0, 1.0)
    ledger.glide(found.model, 1.0, 0.0)
    assert float(ledger.aim) == pytest.approx(1.1 * ledger.floor(found.model, "weights"))
    assert 0 < float(ledger.aim) < float(ledger.start)


def test_multipliers_rise_while_the_limit_is_passed_and_fall_to_nothing(net: Make) -> None:
    over, under = priced(net, 0.25, smooth=True), priced(net, -0.25, smooth=True)
    under.ledger.multiplier.fill_(0.6)
    for step in range(3):
        for found in (over, under):
            Keep(1, multipliers=True)(found.model, Progress(step, 10, 0, 1))
    assert float(over.ledger.multiplier) == pytest.approx(0.75, rel=1e-2)
    assert float(under.ledger.multiplier) == 0


def test_only_every_kth_step_counts(net: Make) -> None:
    found = priced(net, 0.25)
    moved = []
    for step in range(12):
        before = float(found.ledger.multiplier)
        Keep(4, multipliers=True)(found.model, Progress(step, 12, 0, 1))
        moved.append(float(found.ledger.multiplier) != before)
    assert [step for step, is_moved in enumerate(moved) if is_moved] == [3, 7, 11]


def test_unless_asked_for_there_are_no_multipliers(net: Make) -> None:
    found = priced(net, 0.25)
    Keep(1)(found.model, Progress(0, 1, 0, 1))
    assert not found.ledger.multiplier.any()


def test_stiffness_doubles_only_where_the_excess_does_not_shrink(net: Make) -> None:
    stuck, shrinking, under = (priced(net, over, smooth=True) for over in (0.25, 0.25, -0.25))
    keep = Keep(1, multipliers=True, patience=2)
    for step in range(8):
        for found in (stuck, shrinking, under):
            keep(found.model, Progress(step, 8, 0, 1))
        if step % 2:
            shrinking.ledger.base_nbytes -= 60
    assert float(stuck.ledger.stiffness) == 8  # the first look back has nothing to compare with
    assert float(shrinking.ledger.stiffness) == float(under.ledger.stiffness) == 1
    stuck.ledger.stiffness.fill_(STIFFEST)
    for step in range(1, 4):
        keep(stuck.model, Progress(step, 8, 0, 1))
    assert float(stuck.ledger.stiffness) == STIFFEST


def test_boxes_are_kept_at_the_same_steps(net: Make) -> None:
    found = priced(net, 0.25)
    grids = learned_grids(found.model)
    for grid in grids:
        grid.set_grid(grid.ranges().detach() * 2, grid.ranges().detach())
    Keep(3, multipliers=True)(found.model, Progress(0, 9, 0, 1))
    assert all(bool((grid.steps() > grid.ranges()).all()) for grid in grids)
    Keep(3, multipliers=True)(found.model, Progress(2, 9, 0, 1))
    assert all(bool((grid.steps() < grid.ranges()).all()) for grid in grids)


def test_clipping_leaves_logarithms_alone(net: Make) -> None:
    found = priced(net, 0.25)
    for grid in learned_grids(found.model):
        grid.step.grad = torch.full_like(grid.step, 100.0)
    clip_to_step(found.model, Progress(0, 1, 0, 1))
    assert all(bool((grid.step.grad == 100).all()) for grid in learned_grids(found.model))
