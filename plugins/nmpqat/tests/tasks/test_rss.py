from __future__ import annotations

import numpy as np
import pytest
import torch

from qcore.tasks import make_folds
from qcore_nmpqat.tasks.rss import BEST_MSE, PRIMARY, SECONDARY, Rss


def task(**options: int) -> Rss:
    return Rss(Rss.Config(**options))


def test_rows_and_seed_say_what_is_drawn_and_nothing_else_does() -> None:
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
    one = task(rows=200).data
    assert torch.equal(torch.get_rng_state(), state[0]) and (np.random.get_state()[1] == state[1]).all()
    assert one.inputs.shape == (200, 9) and one.targets.shape == (200, 27) and one.targets.dtype == torch.float32
    assert task(rows=200).data.digest == one.digest
    assert task(rows=200, seed=1).data.digest != one.digest
    assert len(one.target_names) == len(set(one.target_names)) == 27
    assert len(task().data) == 50_000


def test_it_says_that_it_is_synthetic() -> None:
    from qcore_nmpqat import qcore_tasks

    (spec,) = (spec for spec in qcore_tasks() if spec.name == "rss")
    assert task(rows=10).data.source.startswith("synthetic") and spec.summary.startswith("synthetic")
    assert Rss.__doc__ is not None and Rss.__doc__.startswith("**Synthetic.**")


def test_levels_and_spreads_are_those_of_a_radio_network() -> None:
    data = task(rows=20_000).data
    assert float(data.targets.mean()) == pytest.approx(-97, abs=0.5)
    assert 200 < float(data.targets.var(dim=0).mean()) < 270
    offsets = (data.targets.reshape(-1, 9, 3) - data.inputs[:, :, None]).mean(dim=(0, 1))
    assert torch.allclose(offsets, -20 * torch.log10(torch.tensor(SECONDARY) / PRIMARY), atol=0.1)
    spread = (data.targets.reshape(-1, 9, 3) - data.inputs[:, :, None]).var(dim=0)
    assert torch.allclose(spread, torch.tensor(BEST_MSE), rtol=0.1)


def test_the_nearest_cell_is_received_best() -> None:
    strongest = task(rows=5000).data.inputs.argmax(dim=1)
    counts = torch.bincount(strongest, minlength=9)
    assert (counts > 200).all()  # the grid is even: each cell serves its ninth


def test_a_linear_map_comes_near_the_best() -> None:
    from sklearn.linear_model import Ridge

    data = task(rows=6000).data
    x, y = data.inputs.numpy(), data.targets.numpy()
    found = Ridge(1.0).fit(x[:5000], y[:5000]).predict(x[5000:])
    assert float(np.square(found - y[5000:]).mean()) == pytest.approx(BEST_MSE, rel=0.05)


def test_folds_are_drawn() -> None:
    folds = make_folds(task(rows=100), 4)
    assert [len(fold.test) for fold in folds] == [25] * 4
