"""What a rounding multiplies the gradient by, against the formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from qcore_hetero_diffq.quantizers.config import ActivationConfig, SlicedConfig
from qcore_hetero_diffq.quantizers.surrogate import scaled_gradient

DELTA = 5e-3
ALL = ("ste", "ewgs", "tanh", "atanh", "psgd", "acos", "gaussian", "uniform")
BOUNDED = ("ewgs", "tanh", "atanh")


class Source:
    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(3)

    def generator_on(self, device: torch.device) -> torch.Generator:
        return self.generator


def factor(kind: str, error: float, sign: int, delta: float = DELTA) -> float:
    """Return ``m`` as the paper's implementation has it."""
    return {
        "ste": 1.0,
        "ewgs": 1 + delta * sign * error,
        "tanh": 1 + delta * sign * math.tanh(4 * error) / 2,
        "atanh": 1 + delta * sign * math.atanh(1.9 * error) / (2 * math.atanh(0.95)),
        "psgd": 1 + delta * abs(error),
        "acos": 1 + delta * math.sin(math.pi * error) / 2,
    }[kind]


def pairs() -> tuple[Tensor, Tensor]:
    """Return gradients of both signs at errors from -1/2 to 1/2."""
    error = (torch.arange(-20, 21) / 40).repeat(2)
    size = torch.rand(82, generator=torch.Generator().manual_seed(1)) + 0.1
    return size * torch.where(torch.arange(82) < 41, 1.0, -1.0), error


@pytest.mark.parametrize("kind", ALL[:6])
@pytest.mark.parametrize("delta", [1e-3, DELTA, 0.5])
def test_the_factor_is_that_of_the_formula(kind: str, delta: float) -> None:
    gradient, error = pairs()
    found = scaled_gradient(kind, delta, gradient, error)
    expected = [
        float(g) * factor(kind, float(e), 1 if g > 0 else -1, delta) for g, e in zip(gradient, error, strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(expected))


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("delta", [0.0, torch.tensor(0.0)], ids=["number", "tensor"])
def test_without_delta_each_is_straight_through(kind: str, delta: float | Tensor) -> None:
    gradient, error = pairs()
    assert torch.equal(scaled_gradient(kind, delta, gradient, error, Source()), gradient)


@pytest.mark.parametrize("kind", BOUNDED)
def test_gradients_grow_where_they_have_the_error_s_sign_and_shrink_elsewhere(kind: str) -> None:
    gradient, error = pairs()
    change = scaled_gradient(kind, DELTA, gradient, error).abs() - gradient.abs()
    alike = gradient.sign() == error.sign()
    assert bool((change[alike] > 0).all()) and bool((change[~alike & (error != 0)] < 0).all())
    assert bool((change[error == 0] == 0).all())


@pytest.mark.parametrize("kind", BOUNDED)
def test_the_change_is_at_most_half_of_delta(kind: str) -> None:
    gradient, error = pairs()
    relative = ((scaled_gradient(kind, 1.0, gradient, error) - gradient) / gradient).abs()
    assert float(relative.max()) <= 0.5 + 1e-6
    assert float(relative[error.abs() == 0.5].min()) == pytest.approx({"tanh": math.tanh(2) / 2}.get(kind, 0.5))


def test_no_gradient_stays_none() -> None:
    for kind in ALL:
        assert not scaled_gradient(kind, 1.0, torch.zeros(3), torch.tensor([-0.5, 0.1, 0.5]), Source()).any()


@pytest.mark.parametrize(("kind", "spread"), [("gaussian", 1.0), ("uniform", 12**-0.5)])
def test_random_factors_have_their_distribution(kind: str, spread: float) -> None:
    ones = torch.ones(20_000)
    found = (scaled_gradient(kind, 0.5, ones, torch.zeros_like(ones), Source()) - 1) / 0.5
    assert float(found.mean()) == pytest.approx(0, abs=0.05)
    assert float(found.std()) == pytest.approx(spread, rel=0.05)
    if kind == "uniform":
        assert float(found.abs().max()) <= 0.5


@pytest.mark.parametrize("kind", ["gaussian", "uniform"])
def test_random_factors_come_from_the_source_alone(kind: str) -> None:
    before = torch.get_rng_state()
    first, second = (scaled_gradient(kind, 0.5, torch.ones(8), torch.zeros(8), Source()) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_and_activations_differ_by_default() -> None:
    assert (SlicedConfig().surrogate, ActivationConfig().surrogate) == ("ewgs", "atanh")
    assert SlicedConfig().delta == ActivationConfig().delta == DELTA
