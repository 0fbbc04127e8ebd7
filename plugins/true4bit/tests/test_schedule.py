from __future__ import annotations

import math

import pytest

from qcore_true4bit.schedule import PAPER_HALF_PERIOD, EpochCosine

STEPS = 391


@pytest.mark.parametrize(
    ("epoch", "lr"),
    [(0, 1e-3), (50, 5e-4), (99, 2.467e-7), (100, 0.0), (109, 1.985e-5), (149, 4.843e-4)],
)
def test_the_rates_are_those_of_the_paper_s_logs(epoch: int, lr: float) -> None:
    schedule = EpochCosine(150, PAPER_HALF_PERIOD)
    for step in (0, 1, STEPS - 1):
        fraction = (epoch * STEPS + step) / (150 * STEPS)
        assert 1e-3 * schedule(fraction) == pytest.approx(lr, rel=1e-3, abs=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 9, 352, STEPS])
def test_every_step_belongs_to_its_own_epoch(steps: int) -> None:
    schedule = EpochCosine(150, 150)
    for epoch in range(150):
        expected = 0.5 * (1 + math.cos(math.pi * epoch / 150))
        for step in {0, steps - 1}:
            assert schedule((epoch * steps + step) / (150 * steps)) == pytest.approx(expected, rel=1e-9, abs=1e-12)
