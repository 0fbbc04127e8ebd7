"""Gates: which width a strength chooses, and how the choice is differentiated."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcore_nmpqat.quantizers.gates import choose_levels, middle_of, mixture_weights, slopes

THRESHOLDS = (0.25, 0.5, 0.75)


def levels(*strengths: float, before: int = 0, **options: object) -> list[int]:
    given_before = torch.full((len(strengths),), before)
    return choose_levels(torch.tensor(strengths), given_before, THRESHOLDS, **options).tolist()


def test_a_strength_on_a_threshold_has_the_lower_width():
    assert levels(0.0, 0.25, 0.5, 0.75, 1.0) == [0, 0, 1, 2, 3]
    just_above = [float(torch.nextafter(torch.tensor(t), torch.tensor(1.0))) for t in THRESHOLDS]
    assert levels(*just_above) == [1, 2, 3]


def test_without_hysteresis_the_past_does_not_count():
    for before in range(4):
        assert levels(0.1, 0.3, 0.6, 0.9, before=before) == [0, 1, 2, 3]


def test_with_hysteresis_a_width_stays_near_its_threshold():
    assert levels(0.26, before=0, hysteresis=0.02) == [0]
    assert levels(0.28, before=0, hysteresis=0.02) == [1]
    assert levels(0.24, before=1, hysteresis=0.02) == [1]
    assert levels(0.23, before=1, hysteresis=0.02) == [0]
    assert levels(0.9, before=0, hysteresis=0.02) == [3]


def test_a_ratchet_never_falls():
    assert levels(0.1, 0.9, before=2, ratchet=True) == [2, 3]


@given(st.floats(0, 1), st.floats(0.02, 0.5))
def test_mixture_weights_are_a_mixture(strength, tau):
    weights = mixture_weights(torch.tensor([strength], dtype=torch.float64), THRESHOLDS, tau)
    assert bool((weights > -1e-15).all())
    assert float(weights.sum()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("strength", [0.05, 0.3, 0.6, 0.95])
def test_a_cold_mixture_is_the_hard_choice(strength):
    weights = mixture_weights(torch.tensor([strength]), THRESHOLDS, 1e-3)
    assert weights.argmax(dim=1).tolist() == levels(strength)
    assert float(weights.max()) > 0.999


def test_slopes_are_what_autograd_says():
    strength = torch.linspace(0, 1, 21, dtype=torch.float64, requires_grad=True)
    values = torch.tensor([1.0, 2.0, 4.0, 8.0], dtype=torch.float64)
    (mixture_weights(strength, THRESHOLDS, 0.1) @ values).sum().backward()
    by_hand = (slopes(strength.detach(), THRESHOLDS, 0.1) * values.diff()).sum(dim=1)
    assert torch.allclose(strength.grad, by_hand, atol=1e-13)


def test_one_width_needs_no_gate():
    strength = torch.rand(3)
    assert choose_levels(strength, torch.zeros(3, dtype=torch.int64), ()).tolist() == [0, 0, 0]
    assert torch.equal(mixture_weights(strength, (), 0.1), torch.ones(3, 1))


def test_the_middle_of_a_level_chooses_it():
    every = torch.arange(4)
    assert torch.equal(choose_levels(middle_of(every, THRESHOLDS), torch.zeros_like(every), THRESHOLDS), every)
