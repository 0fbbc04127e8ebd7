from __future__ import annotations

import pytest
from torch import nn

from qcore.methods import Progress
from qcore_bitnet.activation import Absmax
from qcore_bitnet.schedule import Ramp, TwoStageDecay, TwoStageRate
from qcore_bitnet.ternary import Ternary


def test_stage_one_falls_from_the_peak_to_its_end() -> None:
    rate = TwoStageRate(switch=0.5, stage1_end=0.6, stage2_start=0.3)
    assert rate(0.0) == 1.0
    assert rate(0.25) == pytest.approx(0.8)
    assert rate(0.4999999) == pytest.approx(0.6)


def test_stage_two_starts_lower_and_ends_at_zero() -> None:
    rate = TwoStageRate(switch=0.5, stage1_end=0.6, stage2_start=0.3)
    assert rate(0.5) == pytest.approx(0.3)
    assert rate(0.75) == pytest.approx(0.15)
    assert rate(1.0) == 0.0


def test_the_rate_never_rises() -> None:
    rates = [TwoStageRate()(step / 1000) for step in range(1001)]
    assert all(later < earlier for earlier, later in zip(rates, rates[1:], strict=False))


def test_weight_decay_ends_where_stage_two_begins() -> None:
    decay = TwoStageDecay(switch=0.3)
    assert [decay(0.0), decay(0.29), decay(0.3), decay(0.99)] == [1.0, 1.0, 0.0, 0.0]


def test_the_ramp_reaches_every_quantizer_and_stops_at_one() -> None:
    model = nn.ModuleList([nn.Sequential(Ternary()), Absmax(), nn.Linear(2, 2)])
    blends = []
    for step in (0, 5, 10, 25):
        Ramp(10)(model, Progress(step, 100, 0, 1))
        blends.append((model[0][0].blend, model[1].blend))
    assert blends == [(0.0, 0.0), (0.5, 0.5), (1.0, 1.0), (1.0, 1.0)]


def test_a_ramp_of_no_steps_quantizes_at_once() -> None:
    quantizer = Ternary()
    Ramp(0)(quantizer, Progress(0, 100, 0, 1))
    assert quantizer.blend == 1.0
