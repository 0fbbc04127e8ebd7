"""The real data sets, where QCORE_DATA has them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from qcore.errors import DataError
from qcore.plugins import Framework
from qcore.tasks import TaskData, make_folds
from qcore.testing import task_checks
from qcore.testing.cases import Case, checks_of, run_case
from qcore.testing.subjects import Offer
from qcore_nmpqat import qcore_tasks
from qcore_nmpqat.tasks.covertype import FEATURE_NAMES, Covertype
from qcore_nmpqat.tasks.higgs import FEATURE_NAMES as HIGGS_NAMES
from qcore_nmpqat.tasks.higgs import Higgs
from qcore_nmpqat.tasks.mesh import Mesh
from qcore_nmpqat.tasks.poqemon import PoqemonQoe
from qcore_nmpqat.tasks.traces import Vod

pytestmark = [pytest.mark.data, pytest.mark.usefixtures("research_data")]


def found(task: Any) -> TaskData:
    try:
        data: TaskData = task.data
    except DataError as error:
        if "holds none of" in error.message:
            pytest.skip(error.message)
        raise
    return data


def reported(data: TaskData) -> torch.Tensor:
    assert data.folds is not None
    return data.targets[data.folds == 0]


def test_covertype_is_the_known_part_with_its_split() -> None:
    data = found(Covertype())
    assert torch.bincount(data.targets).tolist() == [33894, 45328, 5721, 439, 1519, 2779, 3282]
    assert data.feature_names == FEATURE_NAMES and len(reported(data)) == 18592 + 1
    assert (data.inputs[:, 10:14].sum(dim=1) == 1).all() and (data.inputs[:, 14:].sum(dim=1) == 1).all()
    (fold,) = make_folds(Covertype())
    assert len(fold.test) == len(reported(data))


def test_higgs_is_the_known_part_with_its_split() -> None:
    data = found(Higgs())
    assert tuple(data.inputs.shape) == (14_999, 28) and data.feature_names == HIGGS_NAMES
    assert float(reported(data).double().mean()) == pytest.approx(0.537, abs=0.001)


@pytest.mark.parametrize(("features", "width"), [("objective", 33), ("full", 40)])
def test_poqemon_has_its_counts_and_testers(features: str, width: int) -> None:
    data = found(PoqemonQoe(PoqemonQoe.Config(features=features, split="group")))
    assert tuple(data.inputs.shape) == (1543, width)
    assert torch.bincount(data.targets).tolist() == [93, 118, 246, 784, 302]
    assert data.groups is not None and len(torch.unique(data.groups)) == 181
    majority = reported(found(PoqemonQoe())) == 3
    assert float(majority.double().mean()) == pytest.approx(0.508, abs=0.001)


def test_vod_has_its_variance() -> None:
    data = found(Vod())
    assert tuple(data.inputs.shape) == (3600, 12)
    assert float(reported(data).var(correction=0)) == pytest.approx(24.4, abs=0.1)
    (fold,) = make_folds(Vod(Vod.Config(split="time")))
    assert fold.test.tolist() == list(range(2520, 3600))


def test_the_mesh_has_its_variances_and_its_idle_routes() -> None:
    for target, idle, rows, variance in (
        ("d12", "keep", 45_343, 139.5),
        ("d22", "keep", 45_343, 1696),
        ("drop1", "drop", 45_343, 33.9),
        ("d12", "drop", 36_615, 20.6),
    ):
        data = found(Mesh(Mesh.Config(target=target, idle=idle)))
        assert len(data) == rows
        assert float(reported(data).var(correction=0)) == pytest.approx(variance, rel=0.005)
    assert tuple(found(Mesh()).targets.shape) == (17_141, 4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("covertype", {}),
        ("higgs", {"limit": 3000}),
        ("poqemon_qoe", {}),
        ("poqemon_qoe", {"features": "full", "split": "group"}),
        ("vod", {}),
        ("vod", {"split": "time"}),
        ("mesh", {}),
        ("mesh", {"target": "all", "idle": "keep"}),
    ],
)
def test_the_data_pass_the_conformance_checks(name: str, options: dict[str, Any]) -> None:
    registry = Framework(load=False).registry
    specs = [dataclasses.replace(spec, needs=None) for spec in qcore_tasks() if spec.name == name]
    (spec,) = registry.commit(specs, plugin="nmpqat", distribution=None, version=None)
    for check in checks_of(task_checks):
        result = run_case(Case(check, Offer(spec, registry, options)))
        if result.status == "skipped":
            pytest.skip(result.message)
        assert result.status == "passed", result.message
