from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch

from qcore.errors import DataError
from qcore_nmpqat.tasks.covertype import CLASS_NAMES, FEATURE_NAMES, Covertype


def task(data: Path, **options: Any) -> Covertype:
    return Covertype(Covertype.Config(data=str(data), **options))


@pytest.fixture
def rows() -> Any:
    generator = np.random.default_rng(1)
    return np.column_stack([generator.integers(-50, 7000, (21, 54)), np.arange(21) % 7 + 1])


def test_features_stay_in_their_units_and_marks_follow_measures(pack: Any, made: Any) -> None:
    data = task(pack("covertype")).data
    arrays = made["covertype"]
    assert data.inputs[:, :10].numpy().tolist() == arrays["X_num"].tolist()
    assert data.inputs[:, 10:].numpy().tolist() == arrays["X_bin"].tolist()
    assert data.feature_names == FEATURE_NAMES and data.class_names == CLASS_NAMES


def test_random_folds_are_an_option(pack: Any) -> None:
    assert task(pack("covertype"), split="random").data.folds is None


@pytest.mark.parametrize("packed", [True, False])
def test_uci_s_file_is_read_with_its_classes_from_one(packed: bool, rows: Any, tmp_path: Path) -> None:
    text = "\n".join(",".join(map(str, row)) for row in rows).encode()
    path = tmp_path / f"covtype.data{'.gz' if packed else ''}"
    path.write_bytes(gzip.compress(text) if packed else text)
    for found in (task(path).data, task(tmp_path).data):
        assert found.inputs.tolist() == rows[:, :54].tolist()
        assert found.targets.tolist() == (rows[:, 54] - 1).tolist()
        assert found.folds is None and found.feature_names == FEATURE_NAMES


def test_another_csv_is_refused(rows: Any, tmp_path: Path) -> None:
    path = tmp_path / "covtype.data"
    for changed, match in (
        (rows[:, 1:], "has 54 columns, expected 55"),
        (np.column_stack([rows[:, :54], rows[:, 54] - 1]), "the cover type less 1 holds other labels than 0 to 6"),
    ):
        np.savetxt(path, changed, fmt="%d", delimiter=",")
        with pytest.raises(DataError, match=match):
            _ = task(path).data


def test_scikit_learn_s_own_copy_is_read_where_it_is_named(
    rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "covertype"
    folder.mkdir()
    joblib.dump(rows[:, :54].astype(np.float64), folder / "samples_py3", compress=9)
    joblib.dump(rows[:, 54].astype(np.int32), folder / "targets_py3", compress=9)
    for place in (tmp_path, folder):
        data = task(place).data
        assert data.inputs.tolist() == rows[:, :54].tolist() and data.targets.tolist() == (rows[:, 54] - 1).tolist()
        assert data.inputs.dtype == torch.float32 and "scikit-learn's copy" in data.source
    monkeypatch.setenv("QCORE_DATA", str(tmp_path))  # it is pickled, so it is read only where it is named
    with pytest.raises(DataError, match="holds none of"):
        _ = Covertype().data
    (folder / "targets_py3").unlink()
    with pytest.raises(DataError, match="scikit-learn cannot read its copy"):
        _ = task(tmp_path).data
    (folder / "targets_py3").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="scikit-learn cannot read its copy"):
        _ = task(tmp_path).data
