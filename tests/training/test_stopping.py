from __future__ import annotations

import math

import torch
from torch import nn

from qcore.training.stopping import Best


def test_the_first_score_is_the_best_and_later_ones_must_beat_it_by_min_delta() -> None:
    best = Best(higher_is_better=True, min_delta=0.1)
    assert [best.update(score, epoch) for epoch, score in enumerate([0.5, 0.55, 0.65, 0.6], 1)] == [
        True,
        False,
        True,
        False,
    ]
    assert (best.score, best.epoch, best.waited) == (0.65, 3, 1)


def test_lower_is_better_where_the_metric_says_so() -> None:
    best = Best(higher_is_better=False)
    assert [best.update(score, 1) for score in (3.0, 4.0, 2.0, 2.0)] == [True, False, True, False]


def test_nan_is_never_the_best_even_as_the_first() -> None:
    best = Best(higher_is_better=True)
    assert not best.update(math.nan, 1)
    assert best.update(-1e9, 2)


def test_restoring_gives_back_the_weights_and_buffers_that_were_kept() -> None:
    model = nn.BatchNorm1d(2)
    best = Best(higher_is_better=True)
    best.keep(model)
    with torch.no_grad():
        model.weight.fill_(7.0)
        model.running_mean.fill_(7.0)  # type: ignore[union-attr]
    best.restore(model)
    assert model.weight.tolist() == [1.0, 1.0]
    assert model.running_mean.tolist() == [0.0, 0.0]  # type: ignore[union-attr]


def test_restoring_nothing_changes_nothing() -> None:
    model = nn.Linear(1, 1)
    before = model.weight.clone()
    Best(higher_is_better=True).restore(model)
    assert torch.equal(model.weight, before)
