"""Every packed set: read whole, found under its usual names, and refused where it is broken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qcore.errors import DataError
from qcore.plugins import Framework
from qcore.tasks import Task, make_folds

SETS = ("covertype", "higgs", "poqemon_qoe", "vod", "mesh")
USUAL = {
    "covertype": "covertype/covertype_93k.npz",
    "higgs": "higgs/higgs_15k.npz",
    "poqemon_qoe": "poqemon_qoe/poqemon_qoe.npz",
    "vod": "kth_traces/kth_vod_3600.npz",
    "mesh": "kth_traces/kth_mesh_cnsm2022.npz",
}
MATRIX = {"covertype": "X_num"}
TARGET = {"vod": "y_frames_per_s", "mesh": "Y"}


@pytest.fixture(scope="module")
def registry() -> Any:
    return Framework(config={}).registry


@pytest.fixture
def task(registry: Any) -> Any:
    def make(name: str, data: Path | None, **options: Any) -> Task:
        given = options if data is None else options | {"data": str(data)}
        made: Task = registry.make("task", f"nmpqat/{name}", **given)
        return made

    return make


@pytest.mark.parametrize("name", SETS)
def test_a_packed_file_gives_checked_data_and_its_split(name: str, task: Any, pack: Any) -> None:
    path = pack(name)
    data = task(name, path).data
    assert data.inputs.dtype == torch.float32 and len(data) == 40
    assert len(data.feature_names) == data.inputs.shape[1]
    assert str(path) in data.source
    (fold,) = make_folds(task(name, path))
    assert fold.test.tolist() == list(range(0, 40, 4))


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_found_in_the_data_folder(
    name: str, task: Any, pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="QCORE_DATA is not set"):
        _ = task(name, None).data
    monkeypatch.setenv("QCORE_DATA", str(tmp_path))
    with pytest.raises(DataError, match="holds none of") as caught:
        _ = task(name, None).data
    assert "get it from" in str(caught.value)
    usual = tmp_path / USUAL[name]
    usual.parent.mkdir()
    pack(name).rename(usual)
    assert task(name, None).data.digest == task(name, usual).data.digest == task(name, tmp_path).data.digest
    usual.rename(tmp_path / usual.name)
    assert len(task(name, None).data) == 40


@pytest.mark.parametrize("name", SETS)
def test_a_path_that_leads_nowhere_is_named(name: str, task: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"there is nothing at .*gone\.npz"):
        _ = task(name, tmp_path / "gone.npz").data


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("kept", [0, 10, -30, -1])
def test_a_truncated_file_is_refused(name: str, kept: int, task: Any, pack: Any) -> None:
    path = pack(name)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match="cannot be read as an npz file"):
        _ = task(name, path).data


@pytest.mark.parametrize("name", SETS)
def test_every_array_is_needed(name: str, task: Any, pack: Any, made: Any) -> None:
    for key in made[name].keys() - {"time"}:
        with pytest.raises(DataError, match=f"lacks the arrays {key}"):
            _ = task(name, pack(name, **{key: None})).data


@pytest.mark.parametrize("name", SETS)
def test_arrays_of_another_kind_or_shape_are_refused(name: str, task: Any, pack: Any, made: Any) -> None:
    key, names = MATRIX.get(name, "X"), made[name]["names"]
    good = made[name][key]
    for changes, match in (
        ({key: good.astype(str)}, rf"{key} is <U\d+ .*, expected numbers \(40, "),
        ({key: good.astype(complex)}, rf"{key} is complex128"),
        ({key: good[:, 0]}, rf"{key} is \w+ \(40,\)"),
        ({key: good[:-1]}, r"\(39, \d+\), expected numbers \(40, "),
        ({key: np.array(3.0)}, rf"{key} is float64 \(\)"),
        ({key: np.array([{}], dtype=object)}, "it holds Python objects"),
        ({"names": names[:-1]}, "names is .* expected .* names"),
        ({"names": np.array([names[0]] * len(names))}, "names is .* expected .* different names"),
        ({"split": made[name]["split"] * 2}, r"split is uint8 \(40,\), expected 0 \(train\) and 1 \(test\)"),
        ({"split": np.zeros(40)}, "expected 0 .* and both"),
        ({"split": made[name]["split"][1:]}, r"split is uint8 \(39,\)"),
    ):
        with pytest.raises(DataError, match=match):
            _ = task(name, pack(name, **changes)).data


@pytest.mark.parametrize("name", SETS)
def test_nan_and_infinity_are_named_by_column(name: str, task: Any, pack: Any, made: Any) -> None:
    key = MATRIX.get(name, "X")
    for bad in (np.nan, np.inf, -np.inf):
        array = made[name][key].astype(np.float64)
        array[3, 1] = bad
        with pytest.raises(
            DataError, match=rf"column '{made[name]['names'][1]}' \(1 of 40 rows, first row 3\)"
        ) as caught:
            _ = task(name, pack(name, **{key: array})).data
        assert ("task.drop" in str(caught.value)) == (name == "vod")


@pytest.mark.parametrize("name", ["covertype", "higgs", "poqemon_qoe"])
def test_labels_that_are_no_classes_are_refused(name: str, task: Any, pack: Any, made: Any) -> None:
    y = made[name]["y"].astype(np.float64)
    for place, bad in ((2, np.nan), (2, 0.5), (2, -1.0), (2, 99.0)):
        changed = y.copy()
        changed[place] = bad
        with pytest.raises(DataError, match="y holds other labels than 0 to"):
            _ = task(name, pack(name, y=changed)).data
    with pytest.raises(DataError, match=r"y is <U"):
        _ = task(name, pack(name, y=y.astype(str))).data
    with pytest.raises(DataError, match="one class only"):
        _ = task(name, pack(name, y=np.zeros(40, np.uint8))).data


@pytest.mark.parametrize("name", ["vod", "mesh"])
def test_a_target_that_is_no_number_is_refused(name: str, task: Any, pack: Any, made: Any) -> None:
    key = TARGET[name]
    array = made[name][key].copy()
    array[5] = np.nan
    with pytest.raises(DataError, match=r"the target.* \(1 of 40 rows, first row 5\)"):
        _ = task(name, pack(name, **{key: array})).data
    with pytest.raises(DataError, match=f"{key} is <U"):
        _ = task(name, pack(name, **{key: array.astype(str)})).data


@pytest.mark.parametrize("name", SETS)
def test_no_rows_are_refused(name: str, task: Any, pack: Any, made: Any) -> None:
    empty = {key: array[:0] for key, array in made[name].items() if not key.startswith("names")}
    with pytest.raises(DataError, match="expected some rows"):
        _ = task(name, pack(name, **empty)).data


@pytest.mark.parametrize("name", [*SETS, "kvs", "rss"])
def test_a_mistyped_option_is_refused_with_the_nearest(name: str, task: Any) -> None:
    from qcore.errors import ConfigError

    with pytest.raises(ConfigError):
        task(name, None, splt="file")


def test_classification_reports_accuracy_first_and_regression_mse(task: Any, pack: Any) -> None:
    for name in SETS:
        found = task(name, pack(name))
        expected = ("mse", "r2", "mae") if name in TARGET else ("accuracy", "f1_macro", "f1_weighted", "nll", "ece")
        assert found.metrics == expected
        assert found.higher_is_better == (name not in TARGET)
        assert found.default_model()[1]["hidden"] == (512,) * 4
