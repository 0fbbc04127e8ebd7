"""From what a user asks for to limits in bytes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from qcore_hetero_diffq.budget.allocate import set_uniform
from qcore_hetero_diffq.budget.ledger import Ledger, Limits, Rules
from qcore_hetero_diffq.budget.setup import Asked, make_ledger, measurable, resolve, start_bits
from qcore_hetero_diffq.budget.sizes import parse_budget
from qcore_hetero_diffq.errors import BudgetInfeasible
from qcore_hetero_diffq.network import inputs_of, weights_of
from qcore_hetero_diffq.quantizers.levels import LEVELS

Make = Callable[..., Any]


def asked(text: str, of: str = "weights", activations: str | None = None) -> Asked:
    return Asked(parse_budget(text), of, None if activations is None else parse_budget(activations))


def limits(found: Any, what: Asked, **rules: Any) -> Limits:
    return resolve(measurable(found.model), what, Rules(found.sizes, **rules))


@pytest.mark.parametrize(("bits", "level"), [("1bit", 1), ("1.6bit", 2), ("3bit", 3), ("8bit", 8)])
@pytest.mark.parametrize("kind", ["mlp", "conv"])
@pytest.mark.parametrize("count_metadata", [True, False])
def test_mean_bits_are_the_file_of_that_one_width(
    net: Make, kind: str, bits: str, level: int, count_metadata: bool
) -> None:
    """The rounding of a file to eight bytes apart, and of a row of trits to whole bytes."""
    found = net(kind, 20)
    rules = Rules(found.sizes, count_metadata=count_metadata)
    uniform = measurable(found.model)
    set_uniform(uniform, level, None)
    limit = limits(found, asked(bits), count_metadata=count_metadata).weights
    assert limit is not None
    assert abs(limit - rules.usage(uniform).weights) <= (16 if count_metadata else 0)


def test_bytes_are_themselves(net: Make) -> None:
    found = net("mlp", 20)
    assert limits(found, asked("9KB")) == Limits(weights=9000)
    assert limits(found, asked("9KB", "both")) == Limits(both=9000)
    assert limits(found, asked("9KB", "activations")) == Limits(activations=9000)
    assert limits(found, asked("9KB", activations="20B")) == Limits(weights=9000, activations=20)


def test_bits_of_inputs_are_bits_of_their_numbers(net: Make) -> None:
    found = net("mlp", 20)
    numbers = 12 + 20 + 23
    assert limits(found, asked("3bit", "activations")) == Limits(activations=-(-3 * numbers // 8))
    assert limits(found, asked("3bit", "activations"), counting="max") == Limits(activations=-(-3 * 23 // 8))
    both, weights = limits(found, asked("3bit", "both")).both, limits(found, asked("3bit")).weights
    assert both == weights + -(-3 * numbers // 8)


@pytest.mark.parametrize(
    "what", [asked("20B"), asked("2B", "activations"), asked("20B", "both"), asked("1MB", activations="2B")]
)
def test_what_cannot_be_kept_is_refused(net: Make, what: Asked) -> None:
    found = net("mlp", 20)
    with pytest.raises(BudgetInfeasible, match="allow at least"):
        make_ledger(found.model, what, Rules(found.sizes), LEVELS)


def test_one_byte_less_than_the_smallest_is_too_few(net: Make) -> None:
    found = net("mlp", 20)
    with pytest.raises(BudgetInfeasible) as error:
        make_ledger(found.model, asked("1B"), Rules(found.sizes), LEVELS)
    least = error.value.smallest_nbytes
    assert make_ledger(found.model, asked(f"{least}B"), Rules(found.sizes), LEVELS).limits == Limits(weights=least)
    with pytest.raises(BudgetInfeasible):
        make_ledger(found.model, asked(f"{least - 1}B"), Rules(found.sizes), LEVELS)


def test_the_model_is_left_alone(net: Make) -> None:
    found = net("conv", 8)
    before = {name: value.clone() for name, value in found.model.state_dict().items()}
    make_ledger(found.model, asked("3bit", "both"), Rules(found.sizes), LEVELS)
    after = found.model.state_dict()
    assert set(after) == set(before) and all(torch.equal(after[name], before[name]) for name in before)
    assert not any(isinstance(module, Ledger) for module in found.model.modules())


def test_what_was_never_calibrated_can_be_measured(net: Make) -> None:
    found = net("conv", 8)
    for quantizer in inputs_of(found.model).values():
        quantizer.batches.zero_()
    ledger = make_ledger(found.model, asked("3bit", "both"), Rules(found.sizes), LEVELS)
    assert ledger.limits.both is not None and ledger.base_nbytes > 0
    assert all(quantizer.needs_calibration for quantizer in inputs_of(found.model).values())


def test_the_base_is_what_a_file_holds_beside_codes(net: Make) -> None:
    found = net("mlp", 20)
    ledger = make_ledger(found.model, asked("3bit"), Rules(found.sizes), LEVELS)
    model = measurable(found.model)
    set_uniform(model, 3, None)
    rows = sum(len(layer.weight) for layer, _ in weights_of(model).values())
    estimate = float(ledger.weight_nbytes(model).detach())
    assert estimate == pytest.approx(ledger.rules.usage(model).weights, abs=16 + rows)
    assert make_ledger(found.model, asked("3bit"), Rules(found.sizes, count_metadata=False), LEVELS).base_nbytes == 0


@pytest.mark.parametrize(
    ("text", "bits"), [("1.2bit", 3), ("2bit", 4), ("3bit", 5), ("3.5bit", 5), ("6.5bit", 8), ("1MB", 8)]
)
def test_training_begins_two_bits_above_the_mean(net: Make, text: str, bits: int) -> None:
    found = net("mlp", 32)
    ledger = make_ledger(found.model, asked(text), Rules(found.sizes, count_metadata=False), LEVELS)
    assert start_bits(found.model, ledger) == (bits, None)


@pytest.mark.parametrize("counting", ["sum", "max", "peak"])
def test_so_do_inputs_however_they_are_counted(net: Make, counting: Any) -> None:
    found = net("mlp", 32)
    rules = Rules(found.sizes, counting)
    ledger = make_ledger(found.model, asked("4bit", "activations"), rules, LEVELS)
    assert start_bits(found.model, ledger) == (None, 6)
    both = make_ledger(found.model, asked("3bit", "both"), Rules(found.sizes, count_metadata=False), LEVELS)
    assert start_bits(found.model, both)[0] == start_bits(found.model, both)[1]


def test_a_copy_of_a_network_shares_what_its_ledger_looks_up(net: Make) -> None:
    """A registry holds every plugin: it is not copied with each copy of a network."""
    from qcore.plugins import default

    found = net("mlp", 8)
    registry = default().registry
    make_ledger(found.model, asked("3bit"), Rules(found.sizes, registry=registry), LEVELS).attach(found.model)
    assert Ledger.of(copy.deepcopy(found.model)).rules.registry is registry
