from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcore.errors import DataError
from qcore.tasks import make_folds
from qcore_nmpqat.tasks.poqemon import PoqemonQoe


def task(data: Path, **options: Any) -> PoqemonQoe:
    return PoqemonQoe(PoqemonQoe.Config(data=str(data), **options))


def test_what_the_tester_said_is_left_out_unless_asked_for(pack: Any, made: Any) -> None:
    path = pack("poqemon_qoe")
    objective, full = task(path).data, task(path, features="full").data
    assert all(name.startswith("QoA") for name in objective.feature_names)
    assert full.feature_names[5:] == ("QoF0", "QoF1", "QoF2", "QoF3", "QoU0", "QoU1", "QoU2")
    assert full.inputs[:, :5].equal(objective.inputs)
    assert full.inputs[:, 5:9].tolist() == made["poqemon_qoe"]["X_feedback"].tolist()
    assert "leaks" in full.source and "leaks" not in objective.source


def test_testers_are_told_apart_by_whole_numbers(pack: Any, made: Any) -> None:
    for bad in (np.nan, 0.5):
        testers = made["poqemon_qoe"]["group"].astype(np.float64)
        testers[7] = bad
        with pytest.raises(DataError, match="group holds other things than whole numbers"):
            _ = task(pack("poqemon_qoe", group=testers), split="group").data


def test_no_tester_spans_folds_drawn_by_tester(pack: Any, made: Any) -> None:
    testers = made["poqemon_qoe"]["group"]
    folds = make_folds(task(pack("poqemon_qoe"), split="group"), 3, validation=0.34)
    assert len(folds) == 3
    for fold in folds:
        parts = [set(testers[part.numpy()].tolist()) for part in (fold.train, fold.validation, fold.test)]
        assert sum(map(len, parts)) == len(set.union(*parts))
