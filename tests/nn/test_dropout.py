"""Dropout draws from a generator of its own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from qcore.errors import ConfigError
from qcore.nn import Dropout, generator_on, set_generator


def test_eval_mode_and_a_share_of_zero_change_nothing() -> None:
    x = torch.ones(4, 5)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_the_share_is_dropped_and_the_rest_scaled_so_that_the_mean_stays() -> None:
    y = Dropout(0.25)(torch.ones(200, 500))
    assert (y == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert y.unique().tolist() == [0, pytest.approx(4 / 3)]


def test_all_can_be_dropped_without_a_nan() -> None:
    assert Dropout(1.0)(torch.ones(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(p: float) -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        Dropout(p)


def test_the_global_random_state_is_neither_read_nor_set() -> None:
    before = torch.get_rng_state()
    torch.manual_seed(1)
    one = Dropout(0.5)(torch.ones(50))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    other = Dropout(0.5)(torch.ones(50))
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_rng_state(before)
    assert torch.equal(one, other)


def test_set_generator_reaches_every_module_that_draws() -> None:
    model = nn.Sequential(Dropout(0.5), nn.Sequential(nn.Linear(2, 2), Dropout(0.5)))
    generator = torch.Generator().manual_seed(3)
    set_generator(model, generator)
    assert model[0].generator is generator
    assert model[1][1].generator is generator  # type: ignore[index]
    x = torch.ones(40)
    first = model[0](x)
    set_generator(model, torch.Generator().manual_seed(3))
    assert torch.equal(model[0](x), first)
    set_generator(model, torch.Generator().manual_seed(4))
    assert not torch.equal(model[0](x), first)


def test_a_generator_keeps_its_place_on_its_device() -> None:
    generator, device = torch.Generator().manual_seed(3), torch.device("cpu")
    assert generator_on(generator, device) is generator
    assert generator_on(None, device).initial_seed() == 0


def test_a_copy_draws_the_same_masks_as_the_original() -> None:
    model = nn.Sequential(Dropout(0.5), Dropout(0.5))
    set_generator(model, torch.Generator().manual_seed(3))
    copied = copy.deepcopy(model)
    assert copied[0].generator is copied[1].generator
    assert torch.equal(copied(torch.ones(40)), model(torch.ones(40)))


def test_the_gradient_is_masked_like_the_value() -> None:
    x = torch.ones(50, requires_grad=True)
    y = Dropout(0.5)(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
