from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qcore.errors import DataError
from qcore_nmpqat.tasks.mesh import DELAYS, Mesh


def task(data: Path, **options: Any) -> Mesh:
    return Mesh(Mesh.Config(data=str(data), **options))


def test_response_times_are_in_milliseconds_and_drops_as_they_are(pack: Any, made: Any) -> None:
    path, y = pack("mesh"), made["mesh"]["Y"]
    assert np.allclose(task(path, target="d12").data.targets, y[:, 1] * 1000)
    data = task(path, target="all").data
    assert data.target_names == ("d11", "d12", "d21", "d22", "drop1", "drop2")
    assert np.allclose(data.targets[:, :4], y[:, :4] * 1000) and np.allclose(data.targets[:, 4:], y[:, 4:])
    assert task(path).data.target_names == DELAYS and task(path).out_features == 4
    assert task(path, target="drop1").data.targets.shape == (40,)
    assert task(path, target="drops").data.targets.dtype == torch.float32


def test_rows_whose_route_carried_nothing_are_left_out(pack: Any, made: Any) -> None:
    y = made["mesh"]["Y"].copy()
    y[0, 0] = y[1, 1] = y[2, 4] = 0.0
    path = pack("mesh", Y=y)
    for target, gone in (("d11", {0}), ("d12", {1}), ("d21", set()), ("delays", {0, 1}), ("all", {0, 1})):
        kept = [row for row in range(40) if row not in gone]
        data = task(path, target=target).data
        assert data.inputs[:, 0].tolist() == made["mesh"]["X"][kept, 0].tolist()
        assert data.folds is not None and data.folds.tolist() == [int(row % 4 == 0) - 1 for row in kept]
    assert len(task(path, target="drops").data) == 40
    kept = task(path, idle="keep").data
    assert len(kept) == 40 and float(kept.targets[0, 0]) == 0.0


def test_carried_load_is_no_feature_of_drops(pack: Any) -> None:
    path = pack("mesh")
    for target, present in (("d12", True), ("delays", True), ("drop1", False), ("drops", False), ("all", False)):
        assert ("cl1" in task(path, target=target).data.feature_names) == present


def test_columns_are_found_by_name(pack: Any, made: Any) -> None:
    arrays = made["mesh"]
    order, order_y = np.array([7, 0, 3, 1, 2, 6, 5, 4]), np.array([5, 3, 1, 0, 2, 4])
    shuffled = {
        "X": arrays["X"][:, order],
        "names": arrays["names"][order],
        "Y": arrays["Y"][:, order_y],
        "names_y": arrays["names_y"][order_y],
    }
    plain = task(pack("mesh"), target="all").data
    assert task(pack("mesh", **shuffled), target="all").data.digest == plain.digest
    renamed = np.array(["p11", "p21", "b1", "b2", "l1", "l2", "cl1", "other"])
    with pytest.raises(DataError, match="names is .* expected p11, p21"):
        _ = task(pack("mesh", names=renamed)).data
