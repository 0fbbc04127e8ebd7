"""Widths that are not learned, and budgets that are kept."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import qcore
from qcore.methods import Progress
from qcore_nmpqat.allocation import by_layer, by_spread, dealt_out, narrow_or_widen
from qcore_nmpqat.budget import BitPrice, DualAscent, Glide, SpendBudget, meet_own_budget
from qcore_nmpqat.network import mean_bits, neurons
from qcore_nmpqat.quantizers.config import NeuronConfig

CHOICE = (1, 2, 4, 8)


def spreads(seed: int = 0) -> dict[str, torch.Tensor]:
    drawn = torch.rand(60, generator=torch.Generator().manual_seed(seed)) + 0.01
    return {"a": drawn[:20], "b": drawn[20:50], "c": drawn[50:]}


COUNTS = {"a": 8, "b": 20, "c": 30}


def mean(widths: dict[str, torch.Tensor]) -> float:
    total = sum(COUNTS[path] * len(found) for path, found in widths.items())
    return sum(COUNTS[path] * int(found.sum()) for path, found in widths.items()) / total


def network(*sizes: int, seed: int = 0, quantizer: str = "nmpqat/neuron") -> nn.Module:
    torch_generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for before, after in zip(sizes[:-1], sizes[1:], strict=True):
        layer = nn.Linear(before, after)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=torch_generator))
        layers += [layer, nn.ReLU()]
    return qcore.quantize(nn.Sequential(*layers), {"type:Linear": quantizer})


def noisy(budget: float) -> nn.Module:
    model = network(10, 40, 30, quantizer="nmpqat/noise")
    for _, quantizer in neurons(model).values():
        quantizer.budget.fill_(budget)
    return model


def progress(step: int = 0) -> Progress:
    return Progress(step=step, steps=10, epoch=0, epochs=1)


@settings(deadline=None)
@given(st.floats(1, 8), st.integers(0, 5))
def test_no_allocation_is_above_its_budget(budget, seed):
    for allocate in (by_layer, by_spread):
        widths = allocate(spreads(seed), COUNTS, CHOICE, budget)
        assert mean(widths) <= budget + 1e-5
        assert {int(w) for found in widths.values() for w in found} <= set(CHOICE)


def test_neurons_fill_a_budget_better_than_layers():
    assert mean(by_spread(spreads(), COUNTS, CHOICE, 1.5)) > 1.45
    assert mean(by_layer(spreads(), COUNTS, CHOICE, 1.5)) <= mean(by_spread(spreads(), COUNTS, CHOICE, 1.5))


def test_wide_neurons_are_those_of_large_spread():
    widths = torch.cat(list(by_spread(spreads(), dict.fromkeys(COUNTS, 10), (1, 2), 1.5).values()))
    drawn = torch.cat(list(spreads().values()))
    assert float(drawn[widths == 2].min()) >= float(drawn[widths == 1].max()) - 1e-6


def test_layers_are_uniform():
    assert all(len(found.unique()) == 1 for found in by_layer(spreads(), COUNTS, CHOICE, 2.2).values())


def test_dealing_out_keeps_each_layers_widths():
    learned = {"a": torch.tensor([1, 1, 2, 8, 4]), "b": torch.arange(1, 3).repeat(9)}
    dealt = dealt_out(learned, torch.Generator().manual_seed(0))
    assert all(torch.equal(learned[path].sort().values, dealt[path].sort().values) for path in learned)
    assert not torch.equal(learned["b"], dealt["b"])


@settings(deadline=None)
@given(st.floats(1, 8), st.integers(0, 20))
def test_a_budget_is_spent_to_the_last_neuron(budget, seed):
    generator = torch.Generator().manual_seed(seed)
    config = NeuronConfig()
    strengths, demand = torch.rand(40, generator=generator), torch.randn(40, generator=generator)
    counts = torch.randint(3, 9, (40,), generator=generator).float()
    before = (strengths.unsqueeze(1) > torch.tensor(config.steps)).sum(dim=1)
    levels = narrow_or_widen(strengths, demand, before, counts, config, budget)
    widths = torch.tensor(config.widths)[levels]
    spent = float((widths * counts).sum() / counts.sum())
    assert spent <= budget + 1e-5
    assert spent > budget - 4 * 8 / float(counts.sum()) - 1e-6 or bool((levels == 3).all())
    assert bool((levels >= before).all() or (levels <= before).all())


def test_equal_strengths_widen_by_demand():
    config, demand = NeuronConfig(), torch.tensor([0.1, 0.5, -0.2, 0.3])
    levels = narrow_or_widen(
        torch.full((4,), 0.125), demand, torch.zeros(4, dtype=torch.int64), torch.ones(4), config, 1.5
    )
    assert levels.tolist() == [0, 1, 0, 1]


def test_spending_changes_strengths_once():
    model = network(10, 40, 30)
    spend = SpendBudget(2.5)
    spend(model, progress(1))
    assert float(mean_bits(model)) == 1.0
    spend(model, progress(0))
    assert 2.4 < float(mean_bits(model)) <= 2.5
    model.train()(torch.randn(4, 10, generator=torch.Generator().manual_seed(0)))
    assert 2.4 < float(mean_bits(model)) <= 2.5


def test_a_ramp_spends_epoch_by_epoch_and_only_widens():
    model, spend = network(10, 40, 30), SpendBudget(3.0, (0.0, 0.5))
    seen = []
    for epoch in range(10):
        spend(model, Progress(step=epoch * 4, steps=40, epoch=epoch, epochs=10))
        seen.append(float(mean_bits(model)))
        spend(model, Progress(step=epoch * 4 + 1, steps=40, epoch=epoch, epochs=10))
        assert float(mean_bits(model)) == seen[-1]
    assert seen[0] == 1.0
    assert seen == sorted(seen)
    assert 2.9 < seen[5] <= 3.0
    for _, quantizer in neurons(model).values():
        quantizer.set_widths(torch.full_like(quantizer.level, 8))
    spend(model, Progress(step=36, steps=40, epoch=9, epochs=10))
    assert float(mean_bits(model)) == 8.0


def test_spending_leaves_other_strengths_alone():
    model = network(10, 40, 30)
    _, quantizer = neurons(model)["0"]
    with torch.no_grad():
        quantizer.strength.copy_(torch.linspace(0.05, 0.2, 40))
    before = quantizer.strength.detach().clone()
    SpendBudget(1.2)(model, progress())
    same = quantizer.widths() == 1
    assert 0 < int(same.sum()) < 40
    assert torch.equal(quantizer.strength.detach()[same], before[same])


def test_the_mean_counts_weights():
    model = network(10, 40, 30)
    first, second = (quantizer for _, quantizer in neurons(model).values())
    first.set_widths(torch.full((40,), 8))
    assert float(mean_bits(model)) == pytest.approx((8 * 400 + 1200) / 1600)
    assert second.widths().tolist() == [1] * 30


def test_the_price_moves_with_the_mean_width():
    model = network(10, 40, 30)
    ascent = DualAscent(budget=1.5, rate=0.1)
    ascent(model, progress())
    assert {float(quantizer.price) for _, quantizer in neurons(model).values()} == {0.0}
    for _, quantizer in neurons(model).values():
        quantizer.set_widths(torch.full_like(quantizer.level, 2))
    ascent(model, progress())
    assert {round(float(quantizer.price), 6) for _, quantizer in neurons(model).values()} == {0.05}


def test_a_price_lowers_every_strength():
    model = network(10, 40, 30)
    BitPrice(0.5)(model).backward()
    for _, quantizer in neurons(model).values():
        assert bool((quantizer.strength.grad > 0).all())


@pytest.mark.parametrize("budget", [1.0, 1.3, 6.0])
def test_noise_glides_from_its_start_to_its_own_budget(budget):
    model, glide = noisy(budget), Glide(4.0, (0.1, 0.5), rate=0.1)
    seen = []
    for epoch in range(10):
        now = Progress(step=epoch * 4, steps=40, epoch=epoch, epochs=10)
        glide.before_step(model, now)
        seen.append(float(mean_bits(model)))
        with torch.no_grad():
            for _, quantizer in neurons(model).values():
                quantizer.logit.add_(torch.linspace(0, 0.2, len(quantizer.logit)))
        glide.before_step(model, Progress(step=epoch * 4 + 1, steps=40, epoch=epoch, epochs=10))
    assert seen[:2] == [4.0, 4.0]
    assert seen == sorted(seen, reverse=budget < 4)
    assert budget - 0.1 < seen[5] <= budget + 1e-6
    meet_own_budget(model, progress(1))
    meet_own_budget(model, progress(0))
    assert budget - 0.1 < float(mean_bits(model)) <= budget + 1e-6


def test_neurons_of_the_largest_logits_stay_wide():
    model = noisy(2.0)
    for _, quantizer in neurons(model).values():
        with torch.no_grad():
            quantizer.logit.copy_(torch.linspace(-0.5, 0, len(quantizer.logit)))
    meet_own_budget(model, progress())
    for _, quantizer in neurons(model).values():
        assert quantizer.widths().tolist() == sorted(quantizer.widths().tolist())


def test_the_price_of_noise_follows_the_aim():
    model, glide = noisy(1.5), Glide(4.0, (0.0, 0.5), rate=0.1)
    glide.after_step(model, Progress(step=5, steps=10, epoch=0, epochs=1))
    assert {round(float(quantizer.price), 6) for _, quantizer in neurons(model).values()} == {0.25}
    BitPrice()(model).backward()
    for _, quantizer in neurons(model).values():
        assert bool((quantizer.logit.grad > 0).all())
