from __future__ import annotations

import pytest
import torch
from torch import nn

from qcore.errors import UsageError
from qcore.measure.bench.contenders import (
    deviation,
    float_contender,
    pack_weight,
    packed_contender,
    rotating,
    ternary,
)
from qcore.measure.bench.plan import Weight
from qcore.nn.init import linear

WEIGHTS = [Weight(None), Weight(None, 8), Weight(None, None, True), Weight(1), Weight(3), Weight(4, 8), Weight(8)]


@pytest.fixture
def layer() -> nn.Linear:
    return linear(20, 6, torch.Generator().manual_seed(0)).eval().requires_grad_(False)


@pytest.mark.parametrize("backend", ["core/reference", "auto"])
@pytest.mark.parametrize("weight", WEIGHTS, ids=str)
def test_a_packed_layer_computes_the_product_with_its_own_weights(
    layer: nn.Linear, weight: Weight, backend: str
) -> None:
    x = torch.randn(3, 20, generator=torch.Generator().manual_seed(1))
    contender = packed_contender(pack_weight(layer, weight, backend), str(weight), x)
    assert contender.expected is not None
    assert deviation(contender.read(contender.call()), contender.expected) < (1e-5 if weight.float_input else 0.02)
    assert torch.equal(contender.read(contender.again()()), contender.read(contender.call()))
    assert contender.weight_nbytes > 0
    assert contender.kernel


def test_ternary_codes_are_those_of_the_mean_magnitude_and_a_short_last_group_has_its_own() -> None:
    weight = torch.tensor([[1.0, -1.0, 0.1, 0.0, 4.0, 2.0], [0.0] * 6])
    rows = ternary(weight).unpack()
    assert rows.codes.tolist() == [[1, -1, 0, 0, 1, 1], [0] * 6]
    groups = ternary(weight, 4).unpack()
    assert groups.scale[0].tolist() == pytest.approx([2.1 / 4, 3.0])
    assert groups.codes[0].tolist() == [1, -1, 0, 0, 1, 1]


def test_float_is_the_layer_itself(layer: nn.Linear) -> None:
    x = torch.ones(2, 20)
    contender = float_contender(layer, x, "torch fp32")
    assert torch.equal(contender.read(contender.call()), layer(x))
    assert contender.weight_nbytes == 4 * 6 * 20


def test_copies_in_turn_lie_elsewhere_and_exceed_the_given_bytes(layer: nn.Linear) -> None:
    contender = float_contender(layer, torch.ones(2, 20), "torch fp32")
    made: list[int] = []
    real = contender.again

    def again():
        made.append(1)
        return real()

    object.__setattr__(contender, "again", again)
    call = rotating(contender, 4 * contender.weight_nbytes - 1, 4)
    assert len(made) == 3
    assert all(torch.equal(call(), layer(torch.ones(2, 20))) for _ in range(6))
    with pytest.raises(UsageError, match="too few"):
        rotating(contender, 5 * contender.weight_nbytes, 4)


def test_the_deviation_is_relative_and_infinite_where_it_cannot_be_told() -> None:
    ones = torch.ones(2, 3)
    assert deviation(ones, ones) == 0
    assert deviation(1.1 * ones, ones) == pytest.approx(0.1)
    assert deviation(torch.ones(3, 2), ones) == deviation(ones * float("nan"), ones) == float("inf")
