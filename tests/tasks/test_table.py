from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qcore.errors import DataError, UsageError
from qcore.tasks import Table, TableConfig, make_folds

DATA = Path(os.environ.get("QCORE_DATA") or Path(__file__).parents[3] / "shared" / "data")


def table(path: Path, **options: Any) -> Table:
    return Table(TableConfig(data=str(path), **options))


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    path = tmp_path / "flowers.csv"
    rows = [f"{i},{i / 2},{'rose' if i % 2 else 'aster'},{i // 4},{i % 3}" for i in range(24)]
    path.write_text("length,width,kind,plant,part\n" + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    path = tmp_path / "embeddings.npz"
    np.savez(
        path,
        X=np.arange(48, dtype=np.float16).reshape(12, 4),
        y=np.arange(12, dtype=np.uint8) % 3,
        fold=np.arange(12) % 2 + 1,
        source=np.arange(12, dtype=np.int32),
        category=np.array(["dog", "cat", "owl"]),
        label=np.array(list("abcabcabcabc")),
    )
    return path


def test_a_csv_becomes_features_classes_groups_and_folds(flowers: Path) -> None:
    data = table(flowers, target="kind", group="plant", folds_column="part", spanning_groups="purge").data
    assert data.feature_names == ("length", "width") and data.class_names == ("aster", "rose")
    assert data.inputs.dtype == torch.float32
    assert data.inputs[3].tolist() == [3.0, 1.5]
    assert data.targets[:4].tolist() == [0, 1, 0, 1]
    assert data.groups is not None and data.groups[:5].tolist() == [0, 0, 0, 0, 1]
    assert data.folds is not None and data.folds[:4].tolist() == [0, 1, 2, 0]


def test_an_npz_array_x_is_the_features_and_nothing_else_is(embeddings: Path) -> None:
    data = table(embeddings, folds_column="fold", group="source").data
    assert data.feature_names == ("X_0", "X_1", "X_2", "X_3")
    assert data.inputs.dtype == torch.float32 and data.inputs[1].tolist() == [4.0, 5.0, 6.0, 7.0]
    assert data.class_names == ("dog", "cat", "owl")
    assert data.folds is not None and data.folds[:2].tolist() == [1, 2]
    assert table(embeddings).data.feature_names == data.feature_names


def test_an_npz_target_of_text_is_named_by_its_labels(embeddings: Path) -> None:
    assert table(embeddings, target="label").data.class_names == ("a", "b", "c")


def test_one_dimensional_npz_arrays_are_columns_and_text_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "columns.npz"
    np.savez(path, a=np.arange(6.0), b=np.arange(6) > 2, note=np.array(list("uvwxyz")), y=np.arange(6) % 2)
    data = table(path).data
    assert data.feature_names == ("a", "b") and data.inputs[3].tolist() == [3.0, 1.0]


def test_npz_arrays_of_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, X=np.zeros((4, 2)), y=np.arange(4) % 2, extra=np.array([{}, {}, {}, {}], dtype=object))
    assert len(table(path).data) == 4
    with pytest.raises(UsageError, match="no column 'extra'"):
        _ = table(path, group="extra").data


def test_names_beside_an_npz_array_name_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "named.npz"
    Y = np.arange(12, dtype=np.float32).reshape(6, 2) / 7
    np.savez(path, X=np.ones((6, 2)), names=np.array(["load", "delay"]), Y=Y, names_y=np.array(["d1", "d2"]))
    task = table(path, target="d2", problem="regression")
    assert task.data.feature_names == ("load", "delay")
    assert torch.allclose(task.data.targets, torch.from_numpy(Y[:, 1]))


def test_features_and_drop_take_names_globs_and_arrays(embeddings: Path, flowers: Path) -> None:
    assert table(embeddings, drop=("X_1", "*_3")).data.feature_names == ("X_0", "X_2")
    assert table(embeddings, features=("X_2", "source")).data.feature_names == ("X_2", "source")
    assert table(embeddings, features=("X", "source")).data.feature_names[-1] == "source"
    assert table(flowers, target="kind", drop=("p*", "width")).data.feature_names == ("length",)
    with pytest.raises(UsageError, match="'widht' matches no column.*\n.*'width'"):
        _ = table(flowers, target="kind", drop=("widht",)).data
    with pytest.raises(UsageError, match="'kind' cannot be a feature"):
        _ = table(flowers, target="kind", features=("length", "kind")).data


def test_a_fixed_split_is_one_fold_that_tests_the_rows_marked_one(tmp_path: Path) -> None:
    path = tmp_path / "split.npz"
    split = np.array([0, 0, 1] * 8)
    np.savez(path, X=np.ones((24, 2)), y=np.arange(24) % 2, split=split)
    (fold,) = make_folds(table(path, split_column="split"))
    assert fold.test.tolist() == np.flatnonzero(split).tolist()
    with pytest.raises(UsageError, match="exclude each other"):
        _ = table(path, split_column="split", folds_column="split").data


@pytest.mark.parametrize(
    ("column", "problem", "expected"),
    [
        ([f"{i / 3:.4f}" for i in range(60)], "auto", "regression"),
        ([str(100 + i) for i in range(60)], "auto", "regression"),
        ([str(i % 30) for i in range(300)], "auto", "classification"),
        ([str(i % 2) for i in range(8)], "auto", "classification"),
        ([str(i % 3) for i in range(60)], "regression", "regression"),
        ([str(i % 3 + 0.5) for i in range(60)], "auto", "classification"),
    ],
)
def test_the_problem_is_guessed_from_the_target_unless_it_is_named(
    tmp_path: Path, column: list[str], problem: str, expected: str
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,y\n" + "\n".join(f"{i},{cell}" for i, cell in enumerate(column)))
    assert table(path, problem=problem).problem == expected


def test_whole_float_labels_are_named_as_whole_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,y\n1,2.0\n2,10.0\n3,2.0\n")
    assert table(path).data.class_names == ("2", "10")


def test_a_missing_column_is_a_usage_error_with_close_matches(flowers: Path) -> None:
    for option in ("target", "group", "folds_column", "split_column"):
        options = {"target": "kind", option: "plnt"}
        with pytest.raises(UsageError, match="no column 'plnt'") as caught:
            _ = table(flowers, **options).data
        assert "did you mean 'plant'" in str(caught.value) and caught.value.exit_code == 2


def test_a_missing_cell_is_named_by_column_and_row(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,y,z\n1,0,1\n2,1,\n3,0,NA\n")
    with pytest.raises(DataError, match=r"column 'z' \(2 of 3 rows, first row 1\)"):
        _ = table(path).data
    path.write_text("x,y\n1,0\n2,\n3,1\n")
    with pytest.raises(DataError, match=r"the target 'y' \(1 of 3 rows"):
        _ = table(path).data
    path.write_text("x,y\n1,a\n2,\n3,b\n")
    with pytest.raises(DataError, match="the target 'y' is missing in 1 rows, first 1"):
        _ = table(path).data
    path.write_text("x,y,g\n1,a,0\n2,b,\n3,b,1\n")
    with pytest.raises(DataError, match="group column 'g' is missing in 1 rows"):
        _ = table(path, group="g").data


def test_a_number_beyond_float32_is_refused_as_infinity(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,y\n1e60,0\n2,1\n")
    with pytest.raises(DataError, match="column 'x'"):
        _ = table(path).data


def test_a_text_feature_must_be_dropped_by_name(flowers: Path) -> None:
    with pytest.raises(DataError, match=r"column 'kind' is text \('aster', for one\)") as caught:
        _ = table(flowers, target="part").data
    assert """--set task.drop='["kind"]'""" in str(caught.value)


def test_regression_of_text_and_folds_that_are_no_numbers_are_refused(flowers: Path) -> None:
    with pytest.raises(DataError, match="is text, which no regression can predict"):
        _ = table(flowers, target="kind", problem="regression").data
    with pytest.raises(DataError, match="names no folds"):
        _ = table(flowers, target="part", folds_column="kind").data
    with pytest.raises(DataError, match="must hold 0"):
        _ = table(flowers, target="kind", split_column="part").data


def test_features_for_prediction_come_in_the_models_order(embeddings: Path, flowers: Path) -> None:
    assert Table.read_features(flowers, ("width", "length"))[3].tolist() == [1.5, 3.0]
    names = table(embeddings).data.feature_names
    assert torch.equal(Table.read_features(str(embeddings), names), table(embeddings).data.inputs)


def test_prediction_needs_every_column_and_no_target(tmp_path: Path, flowers: Path) -> None:
    path = tmp_path / "new.csv"
    path.write_text("width,length\n1,2\n")
    assert Table.read_features(path, ("length", "width")).tolist() == [[2.0, 1.0]]
    with pytest.raises(UsageError, match="no column 'lenght'") as caught:
        Table.read_features(path, ("lenght",))
    assert "'length'" in str(caught.value)
    with pytest.raises(DataError, match="is text"):
        Table.read_features(flowers, ("kind",))
    with pytest.raises(UsageError, match="no file of columns fits"):
        Table.read_features(flowers, ())
    path.write_text("width,length\n1,\n")
    with pytest.raises(DataError, match="column 'length'"):
        Table.read_features(path, ("length", "width"))


@pytest.mark.data
@pytest.mark.skipif(not DATA.exists(), reason="the research data are not here: set QCORE_DATA")
def test_the_esc50_embeddings_load_with_their_official_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_DATA", str(DATA))
    options = {"target": "y", "folds_column": "fold", "group": "source"}
    task = table(Path("esc50_yamnet/esc50_yamnet.npz"), **options)
    assert tuple(task.data.inputs.shape) == (2000, 1024) and task.out_features == 50
    with pytest.raises(DataError, match="4 of 1524 groups span"):
        make_folds(task)
    task = table(Path("esc50_yamnet/esc50_yamnet.npz"), **options, spanning_groups="purge")
    folds = make_folds(task)
    assert [len(fold.test) for fold in folds] == [400] * 5
    groups = task.data.groups
    assert groups is not None
    for fold in folds:
        assert not set(groups[fold.test].tolist()) & set(groups[fold.train].tolist())
        assert not set(groups[fold.validation].tolist()) & set(groups[fold.train].tolist())
