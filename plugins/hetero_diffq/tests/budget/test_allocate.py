"""The promise: a file that keeps its budget to the byte, or no training at all."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import qcore
from qcore_hetero_diffq.budget.allocate import Search, set_uniform
from qcore_hetero_diffq.budget.ledger import Limits, Rules
from qcore_hetero_diffq.budget.setup import check_feasible
from qcore_hetero_diffq.errors import BudgetInfeasible
from qcore_hetero_diffq.network import inputs_of, weights_of
from qcore_hetero_diffq.quantizers.levels import LEVELS
from qcore_hetero_diffq.quantizers.losses import ACTIVATION_LEVELS, RATIOS

Make = Callable[..., Any]
METADATA = {"task": "drawn", "classes": ["a", "b", "c"], "fold": 999_999}

networks = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["mlp", "normed", "conv"]),
        "width": st.integers(1, 24),
        "seed": st.integers(0, 1000),
        "granularity": st.sampled_from(["row", "tensor", "group"]),
        "float_input": st.booleans(),
        "watched": st.sampled_from([True, True, False]),
    }
)
rules = st.fixed_dictionaries({"counting": st.sampled_from(["sum", "max", "peak"]), "count_metadata": st.booleans()})
level_sets = st.sampled_from([LEVELS, (2, 3, 4, 5, 6, 7, 8), (1, 2), (3,), (2, 4, 8)])
limited = st.sampled_from(["weights", "activations", "weights and activations", "both"])
room = st.floats(-0.4, 1.2)


def taken(model: nn.Module, found: Rules, folder: Path) -> dict[str, int]:
    """Return the bytes that a network really takes, by other means than the plugin's."""
    path = qcore.save(model, folder / "model.safetensors", metadata=METADATA)
    packed = qcore.load(path, model=copy.deepcopy(model), backend="reference")
    codes = sum(m.weight.blocks[i].data.numel() for m in packed.modules() for i in blocks(m))
    widths = {path: float(quantizer.bits().detach()) for path, quantizer in inputs_of(model).items()}
    bits = [count * widths[path] for path, count in found.sizes.counts.items()]
    if found.counting == "peak":
        bits = [sum(found.sizes.counts[p] * widths[p] for p in group) for group in found.sizes.together]
    numbers = -int(-(sum(bits) if found.counting == "sum" else max(bits, default=0)) // 8)
    weights = path.stat().st_size if found.count_metadata else codes
    return {"weights": weights, "activations": numbers, "both": weights + numbers}


def blocks(module: nn.Module) -> range:
    weight = getattr(module, "weight", None)
    return range(len(weight.blocks)) if hasattr(weight, "blocks") else range(0)


def limits_of(what: str, share: float, low: dict[str, int], high: dict[str, int]) -> Limits:
    names = what.split(" and ")
    return Limits(**{name: max(0, int(low[name] + share * (high[name] - low[name]))) for name in names})


def extremes(model: nn.Module, found: Rules, levels: tuple[int, ...], what: str, folder: Path) -> list[dict[str, int]]:
    """Return what the narrowest and the widest uniform choices take, of what ``what`` limits."""
    results = []
    for level, of_input in ((levels[0], 2), (levels[-1], 8)):
        probe = copy.deepcopy(model)
        set_uniform(probe, None if what == "activations" else level, None if what == "weights" else of_input)
        results.append(taken(probe, found, folder))
    return results


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(networks, rules, level_sets, limited, room)
def test_a_budget_is_kept_to_the_byte_or_refused(
    net: Make,
    tmp_path: Path,
    network: dict[str, Any],
    rule: dict[str, Any],
    levels: tuple[int, ...],
    what: str,
    room: float,
) -> None:
    given_net = net(**network)
    model = given_net.model
    found = Rules(given_net.sizes, metadata=METADATA, **rule)
    low, high = extremes(model, found, levels, what, tmp_path)
    limits = limits_of(what, room, low, high)
    fits = all(low[name] <= limit for name, limit in limits.items())
    probe = copy.deepcopy(model)
    if fits:
        check_feasible(probe, limits, found, levels)
    else:
        with pytest.raises(BudgetInfeasible) as error:
            check_feasible(probe, limits, found, levels)
        assert error.value.smallest_nbytes in [low[name] for name, limit in limits.items() if low[name] > limit]
    allocation = Search(model, limits, found, levels=levels, samples=16).run()
    assert (allocation is not None) == fits
    if allocation is None:
        return
    now = taken(model, found, tmp_path)
    for name, limit in limits.items():
        assert now[name] <= limit, (name, now, limit)
    usage = found.usage(model)
    assert all(usage.of(name) == now[name] for name in now)
    for _, quantizer in weights_of(model).values() if what != "activations" else ():
        assert set(quantizer.row_bits().tolist()) <= set(levels)
    for quantizer in inputs_of(model).values() if what != "weights" else ():
        assert int(quantizer.bits()) in ACTIVATION_LEVELS and bool(quantizer.level > 0)
    check_loaded(given_net, tmp_path)


def check_loaded(given_net: Any, folder: Path) -> None:
    """The file that was measured computes what eval mode computes."""
    with torch.no_grad():
        expected = given_net.model.eval()(given_net.x)
        loaded = qcore.load(folder / "model.safetensors", model=copy.deepcopy(given_net.plain), backend="reference")
        found = loaded.eval()(given_net.x)
    if given_net.integer:
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(networks, st.booleans(), level_sets)
def test_nothing_uniform_is_smaller_than_the_smallest(
    net: Make, tmp_path: Path, network: dict[str, Any], count_metadata: bool, levels: tuple[int, ...]
) -> None:
    given_net = net(**network)
    found = Rules(given_net.sizes, metadata=METADATA, count_metadata=count_metadata)
    smallest = Search(copy.deepcopy(given_net.model), Limits(weights=0), found, levels=levels).smallest().weights
    for level in levels:
        probe = copy.deepcopy(given_net.model)
        set_uniform(probe, level, None)
        assert taken(probe, found, tmp_path)["weights"] >= smallest
    with pytest.raises(BudgetInfeasible, match="cannot be kept") as error:
        check_feasible(copy.deepcopy(given_net.model), Limits(weights=smallest - 1), found, levels)
    assert error.value.smallest_nbytes == smallest
    model = copy.deepcopy(given_net.model)
    assert Search(model, Limits(weights=smallest), found, levels=levels).run() is not None
    assert taken(model, found, tmp_path)["weights"] == smallest


@pytest.mark.parametrize(("kind", "granularity"), [("mlp", "row"), ("conv", "row"), ("normed", "group")])
@pytest.mark.parametrize("share", [0.15, 0.4, 0.8])
@pytest.mark.parametrize("count_metadata", [True, False])
def test_little_of_a_budget_is_left_over(
    net: Make, tmp_path: Path, kind: str, granularity: str, share: float, count_metadata: bool
) -> None:
    """What is left is less than what the next width of a layer's rows costs, with its entry in the file."""
    given_net = net(kind, 32, 0, granularity)
    found = Rules(given_net.sizes, metadata=METADATA, count_metadata=count_metadata)
    low, high = extremes(given_net.model, found, LEVELS, "weights", tmp_path)
    limits = limits_of("weights", share, low, high)
    assert Search(given_net.model, limits, found, samples=16).run() is not None
    left = limits.weights - taken(given_net.model, found, tmp_path)["weights"]
    assert 0 <= left <= (0.02 * limits.weights if count_metadata else 32)


@pytest.mark.parametrize("limit", range(5822, 7100, 61))
def test_a_file_a_little_too_large_does_not_end_with_the_smallest(net: Make, tmp_path: Path, limit: int) -> None:
    given_net = net("mlp", 32)
    found = Rules(given_net.sizes, metadata=METADATA)
    low = extremes(given_net.model, found, LEVELS, "weights", tmp_path)[0]["weights"]
    assert Search(given_net.model, Limits(weights=limit), found, samples=16).run() is not None
    size = found.usage(given_net.model).weights
    assert size <= limit
    assert size > low + 0.7 * (limit - low)


@pytest.mark.parametrize("what", ["activations", "both", "weights and activations"])
@pytest.mark.parametrize("counting", ["sum", "max", "peak"])
@pytest.mark.parametrize("share", [0.2, 0.6])
def test_little_is_left_where_inputs_are_limited_too(
    net: Make, tmp_path: Path, what: str, counting: Any, share: float
) -> None:
    given_net = net("conv", 16)
    before = {path: quantizer.ranges().detach() for path, quantizer in inputs_of(given_net.model).items()}
    found = Rules(given_net.sizes, counting, metadata=METADATA)
    low, high = extremes(given_net.model, found, LEVELS, what, tmp_path)
    limits = limits_of(what, share, low, high)
    allocation = Search(given_net.model, limits, found, samples=16).run()
    now = taken(given_net.model, found, tmp_path)
    for name, limit in limits.items():
        assert 0 <= limit - now[name] <= max(0.05 * limit, 0.25 * (high[name] - low[name]))
    assert allocation is not None
    for path, (_, range) in allocation.inputs.items():
        shares = (range / before[path]).item()
        assert any(shares == pytest.approx(ratio, rel=1e-5) for ratio in RATIOS), "of the range that was learned"
        torch.testing.assert_close(inputs_of(given_net.model)[path].ranges().detach(), range, rtol=1e-5, atol=0)


def test_what_inputs_leave_does_not_move_their_limit(net: Make, tmp_path: Path) -> None:
    """Bytes of inputs come in steps, so that some are always left; with more allowed they would be too many."""
    given_net = net("normed", 16, 3, "tensor")
    found = Rules(given_net.sizes, "max", metadata=METADATA)
    low, high = extremes(given_net.model, found, LEVELS, "weights and activations", tmp_path)
    limits = limits_of("weights and activations", 0.42, low, high)
    allocation = Search(given_net.model, limits, found, samples=16).run()
    usage = found.usage(given_net.model)
    assert allocation is not None and allocation.loss < float("inf")
    assert limits.activations is not None and limits.weights is not None
    assert limits.activations - 16 / 8 <= usage.activations <= limits.activations
    assert 0.99 * limits.weights <= usage.weights <= limits.weights


@pytest.mark.parametrize("what", ["both", "weights and activations"])
def test_where_only_the_narrowest_weights_fit_inputs_get_the_rest(net: Make, tmp_path: Path, what: str) -> None:
    given_net = net("mlp", 12)
    found = Rules(given_net.sizes, metadata=METADATA)
    low, high = extremes(given_net.model, found, LEVELS, what, tmp_path)
    room = high["activations"] - low["activations"]
    limits = Limits(both=low["both"] + room) if what == "both" else Limits(low["weights"], high["activations"])
    search = Search(given_net.model, limits, found, samples=16)
    search._closing_in = lambda: None  # type: ignore[method-assign]
    assert search.run() is not None
    usage = found.usage(given_net.model)
    assert not usage.exceeds(limits) and usage.activations == high["activations"]


def test_without_gradients_inputs_are_not_all_narrow(net: Make) -> None:
    given_net = net("conv", 8, watched=False)
    found = Rules(given_net.sizes)
    assert Search(given_net.model, Limits(activations=10**6), found).run() is not None
    assert {int(quantizer.bits()) for quantizer in inputs_of(given_net.model).values()} == {8}


def test_more_bytes_lose_less(net: Make) -> None:
    losses = []
    for limit in range(5600, 7000, 200):
        given_net = net("mlp", 32)
        allocation = Search(given_net.model, Limits(weights=limit), Rules(given_net.sizes), samples=16).run()
        losses.append(allocation.loss if allocation else float("inf"))
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0]


def test_sensitive_rows_get_more_bits(net: Make) -> None:
    given_net = net("mlp", 32)
    for _, quantizer in weights_of(given_net.model).values():
        quantizer.sensitivity.copy_(torch.logspace(-4, 4, len(quantizer.level)))
        quantizer.seen.fill_(1.0)
    Search(given_net.model, Limits(weights=700), Rules(given_net.sizes, count_metadata=False), samples=16).run()
    _, quantizer = weights_of(given_net.model)["2"]
    widths = quantizer.row_bits().double()
    assert widths[-8:].mean() > widths[:8].mean() + 1


@pytest.mark.parametrize("size", [1e-25, 1e19, 1e25])
def test_huge_and_tiny_weights_are_allocated(size: float) -> None:
    model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(size * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
    wide = "range_limits=[1e-37, 1e37], step_limits=[1e-37, 1e37]"
    quantized = qcore.quantize(model, {"type:Linear": f"hetero_diffq/sliced({wide})"})
    set_uniform(quantized, 8, None)
    for layer, quantizer in weights_of(quantized).values():
        y, w = quantizer.eval()(layer.weight).detach(), layer.weight.detach()
        assert float((y - w).abs().max()) <= 0.02 * float(w.abs().max())


def test_a_limit_of_nothing_is_refused(net: Make) -> None:
    given_net = net("mlp")
    found = Rules(given_net.sizes)
    for limits in (Limits(weights=0), Limits(activations=0), Limits(both=0)):
        assert Search(copy.deepcopy(given_net.model), limits, found).run() is None
        with pytest.raises(BudgetInfeasible):
            check_feasible(copy.deepcopy(given_net.model), limits, found, LEVELS)


def test_what_is_not_limited_stays_as_it_is(net: Make) -> None:
    given_net = net("conv", 12)
    model = given_net.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Search(model, Limits(weights=10**6), Rules(given_net.sizes)).run()
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before if "weight_quantizer" not in name)
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_the_message_names_what_is_largest(net: Make) -> None:
    given_net = net("mlp", 24)
    found = Rules(given_net.sizes)
    with pytest.raises(BudgetInfeasible, match=r"a budget of 100 bytes cannot be kept.*Largest: 2\.weight"):
        check_feasible(copy.deepcopy(given_net.model), Limits(weights=100), found, LEVELS)
    with pytest.raises(BudgetInfeasible, match=r"inputs take 16 bytes.*Largest: input of"):
        check_feasible(copy.deepcopy(given_net.model), Limits(activations=3), found, LEVELS)


def test_a_network_in_which_a_layer_never_runs_is_allocated() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(6, 3), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    from qcore_hetero_diffq.budget.activations import trace_inputs

    rules = {"type:Linear": {"weight": "hetero_diffq/sliced", "input": "hetero_diffq/activation"}}
    model = qcore.quantize(Spare(), rules).train()
    x = torch.ones(4, 6)
    for quantizer in inputs_of(model).values():
        quantizer.initialize(x)
    found = Rules(trace_inputs(model, x[:1]))
    assert Search(model, Limits(both=10**6), found).run() is not None
    assert found.usage(model).activations == 6
