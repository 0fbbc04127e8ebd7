"""What a network in training is said to take, against what its file takes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

import qcore
from qcore.errors import UsageError
from qcore_hetero_diffq.budget.allocate import set_uniform
from qcore_hetero_diffq.budget.ledger import Ledger, Limits, Rules, Usage
from qcore_hetero_diffq.network import inputs_of, learned_grids, weights_of
from qcore_hetero_diffq.quantizers.levels import stored_bits

Make = Callable[..., Any]


def ledger_of(found: Any, counting: str = "sum", base: int = 0, **limits: int) -> Ledger:
    made = Ledger(Limits(**limits), Rules(found.sizes, counting, count_metadata=False), base, 1.0)
    made.attach(found.model)
    return made


@pytest.mark.parametrize("granularity", ["row", "tensor", "group"])
@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_mean_width_times_elements_is_the_sum(net: Make, kind: str, granularity: str) -> None:
    found = net(kind, 8, 0, granularity)
    ledger = ledger_of(found, base=1000, weights=5000)
    bits = 0.0
    for layer, quantizer in weights_of(found.model).values():
        widths = quantizer.bits().detach().expand(len(layer.weight))
        assert len(layer.weight) * float(widths.mean()) == pytest.approx(float(widths.sum()))
        bits += sum(float(stored_bits(width)) * layer.weight[0].numel() for width in widths)
    assert float(ledger.weight_nbytes(found.model).detach()) == pytest.approx(1000 + bits / 8)


@pytest.mark.parametrize("level", [1, 2, 3, 5, 8])
def test_at_widths_that_stand_still_it_is_the_packed_size_but_for_full_bytes(net: Make, level: int) -> None:
    found = net("mlp", 24)
    set_uniform(found.model, level, None)
    ledger = ledger_of(found, weights=5000)
    packed = ledger.rules.usage(found.model).weights
    rows = sum(len(layer.weight) for layer, _ in weights_of(found.model).values())
    assert packed - rows <= float(ledger.weight_nbytes(found.model).detach()) <= packed


def test_the_published_sizes_come_out() -> None:
    """Bytes of codes and of inputs add up, in units of 1000: 4.14 and 3.51 MB with norms of 16 bits."""
    for inputs, weights, norms, total in ((2486.63, 1572.26, 0.0840, 4.143), (2383.93, 1054.01, 0.0682, 3.506)):
        usage = Usage(weights=round(1000 * weights), activations=round(1000 * inputs))
        assert usage.of("both") / 1e6 + norms == pytest.approx(total, abs=5e-4)
        assert not usage.exceeds(Limits(both=usage.of("both"))) and usage.exceeds(Limits(both=usage.of("both") - 1))


@pytest.mark.parametrize("counting", ["sum", "max", "peak"])
def test_inputs_are_counted_together_alone_or_as_they_live(net: Make, counting: str) -> None:
    found = net("conv", 8)
    ledger = ledger_of(found, counting, activations=100)
    widths = {path: float(quantizer.bits().detach()) for path, quantizer in inputs_of(found.model).items()}
    bits = {path: found.sizes.counts[path] * widths[path] for path in widths}
    expected = {
        "sum": sum(bits.values()),
        "max": max(bits.values()),
        "peak": max(sum(bits[path] for path in live) for live in found.sizes.together),
    }[counting]
    assert float(ledger.activation_nbytes(found.model).detach()) == pytest.approx(expected / 8)
    assert ledger.rules.usage(found.model).activations == -int(-expected // 8)


@pytest.mark.parametrize("counting", ["max", "peak"])
def test_the_largest_alone_has_a_gradient(net: Make, counting: str) -> None:
    found = net("conv", 8)
    found.model.zero_grad()
    for quantizer in inputs_of(found.model).values():
        quantizer.set_grid(quantizer.ranges().detach() / 20, quantizer.ranges().detach())
    ledger_of(found, counting, activations=100).activation_nbytes(found.model).backward()
    moved = {path for path, q in inputs_of(found.model).items() if q.step.grad is not None and q.step.grad.any()}
    sizes = {p: found.sizes.counts[p] * float(q.bits().detach()) for p, q in inputs_of(found.model).items()}
    groups = found.sizes.together if counting == "peak" else [{path} for path in sizes]
    assert moved == set(max(groups, key=lambda group: sum(sizes[path] for path in group)))


def test_gradients_of_the_size_are_elements_times_those_of_bits(net: Make) -> None:
    found = net("mlp", 8)
    ledger = ledger_of(found, weights=100)
    for grid in learned_grids(found.model):
        grid.zero_grad()
    ledger.taken(found.model, "weights").backward()
    for layer, quantizer in weights_of(found.model).values():
        mine = quantizer.step.grad.clone()
        quantizer.zero_grad()
        quantizer.bits().sum().backward()
        torch.testing.assert_close(mine, quantizer.step.grad * layer.weight[0].numel() / 8)


def test_over_is_relative_to_the_aim_and_smooth(net: Make) -> None:
    found = net("mlp", 8)
    ledger = ledger_of(found, base=100, weights=1000, activations=10)
    taken = [float(ledger.taken(found.model, name, smooth=True).detach()) for name in ("weights", "activations")]
    expected = [(taken[0] - 1000) / (1000 - 100), taken[1] / 10 - 1]
    assert ledger.over(found.model).tolist() == pytest.approx(expected, rel=1e-4), "of what widths can change"
    ledger.aim.copy_(torch.tensor([500.0, 5.0]))
    assert ledger.over(found.model).tolist() == pytest.approx([(taken[0] - 500) / 400, taken[1] / 5 - 1], rel=1e-4)
    assert taken[0] <= float(ledger.taken(found.model, "weights").detach())


def test_both_are_their_sum(net: Make) -> None:
    found = net("mlp", 8)
    ledger = ledger_of(found, base=7, both=1000)
    parts = ledger.weight_nbytes(found.model) + ledger.activation_nbytes(found.model)
    assert torch.equal(ledger.taken(found.model, "both"), parts)


def test_a_network_without_a_ledger_says_so(net: Make) -> None:
    with pytest.raises(UsageError, match="no budget"):
        Ledger.of(net("mlp").model)


def test_the_ledger_is_in_no_file_and_goes_with_a_copy(net: Make) -> None:
    found = net("mlp", 8)
    before = qcore.export.to_bytes(found.model)
    names = set(found.model.state_dict())
    made = ledger_of(found, weights=1000)
    assert qcore.export.to_bytes(found.model) == before
    assert set(found.model.state_dict()) == names
    twin = Ledger.of(copy.deepcopy(found.model))
    twin.multiplier.fill_(3)
    assert twin is not made and not made.multiplier.any()


def test_trits_are_stored_in_less_than_their_width() -> None:
    bits = torch.tensor([1.0, 2.0, 3.0, 8.0], requires_grad=True)
    stored = stored_bits(bits)
    assert stored.tolist() == pytest.approx([1, 1.6, 3, 8])
    stored.sum().backward()
    assert bits.grad.tolist() == [1, 1, 1, 1]
