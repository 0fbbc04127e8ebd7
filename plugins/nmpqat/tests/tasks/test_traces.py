from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcore.errors import DataError, UsageError
from qcore.tasks import make_folds
from qcore_nmpqat.tasks.traces import Kvs, Vod

X = "TimeStamp,cpu,memory\n" + "".join(f"{100 + i},{i},{i * i / 7}\n" for i in range(30))
Y = "TimeStamp,ReadsAvg,WritesAvg,DispFrames\n" + "".join(f"{100 + i},{50 + i},{100 + i},{20 + i}\n" for i in range(30))


def kvs(data: Path | None, **options: Any) -> Kvs:
    return Kvs(Kvs.Config(data=None if data is None else str(data), **options))


def vod(data: Path, **options: Any) -> Vod:
    return Vod(Vod.Config(data=str(data), **options))


def test_a_pair_of_files_gives_statistics_and_the_named_metric(pair: Any) -> None:
    folder = pair(X, Y)
    for place in (folder, folder / "X.csv"):
        data = kvs(place).data
        assert data.feature_names == ("cpu", "memory")
        assert data.inputs[:, 0].tolist() == list(range(30))
        assert data.targets.tolist() == [100.0 + i for i in range(30)]
        assert data.folds is None and data.groups is None
    assert kvs(folder, target="ReadsAvg").data.targets[0] == 50
    assert vod(folder).data.targets[0] == 20


def test_a_pair_is_found_in_the_data_folder_and_may_be_gzipped(
    pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair(X, Y)
    (tmp_path / "kvs").mkdir()
    for name in "XY":
        file = tmp_path / f"{name}.csv"
        (tmp_path / "kvs" / f"{name}.csv.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    monkeypatch.setenv("QCORE_DATA", str(tmp_path))
    assert len(kvs(None).data) == 30


def test_absent_traces_say_what_to_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"key-value store, X.csv beside Y.csv with ReadsAvg and WritesAvg") as caught:
        _ = kvs(None).data
    assert "KTH-traces" in str(caught.value) and caught.value.exit_code == 5


@pytest.mark.parametrize("header", ["", "time", "Unnamed: 0", "index", "TIMESTAMP"])
def test_columns_that_say_the_time_are_no_features(header: str, pair: Any) -> None:
    x = f"{header},cpu\n" + "".join(f"2015-05-01 12:00:{i},{i}\n" for i in range(10, 30))
    y = "DispFrames\n" + "".join(f"{i}\n" for i in range(10, 30))
    assert vod(pair(x, y)).data.feature_names == ("cpu",)


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        (X, Y.replace("\n105,", "\n999,"), "differ in 'TimeStamp', first in row 5"),
        (X, Y[: Y.rindex("129,79")], "has 30 rows and Y.csv has 29"),
        (X.replace(",3,", ",many,"), Y, "cannot be read as a csv file of numbers: could not convert"),
        (X.replace(",3,", ",,"), Y, "cannot be read as a csv file of numbers"),
        (X.replace(",3,", ","), Y, "cannot be read as a csv file of numbers"),
        (X.replace(",3,", ",nan,"), Y, r"column 'cpu' \(1 of 30 rows, first row 3\)"),
        (X, Y.replace(",103,", ",inf,"), r"the target \(1 of 30 rows, first row 3\)"),
        (X[X.index("\n") + 1 :], Y, "lacks a first line"),
        ("", Y, "lacks a first line"),
        ("TimeStamp,cpu\n", Y, "holds no rows"),
        ("TimeStamp\n1\n", Y, "no column but times"),
        ("a,a\n1,2\n", Y, "names columns twice: 'a'"),
    ],
)
def test_a_broken_pair_is_refused(x: str, y: str, match: str, pair: Any) -> None:
    with pytest.raises(DataError, match=match):
        _ = kvs(pair(x, y)).data


def test_the_other_file_of_a_pair_is_missed(pair: Any) -> None:
    folder = pair(X, Y)
    (folder / "Y.csv").unlink()
    with pytest.raises(DataError, match="has no Y.csv beside it"):
        _ = kvs(folder).data
    (folder / "X.csv").rename(folder / "trace.csv")
    with pytest.raises(DataError, match="is no X.csv"):
        _ = kvs(folder / "trace.csv").data


def test_a_metric_that_was_not_measured_is_refused_with_the_nearest(pair: Any) -> None:
    with pytest.raises(UsageError, match="no column 'WriteAvg'") as caught:
        _ = kvs(pair(X, Y), target="WriteAvg").data
    assert "WritesAvg" in str(caught.value)


def test_features_can_be_dropped_by_name_or_glob(pair: Any, pack: Any) -> None:
    assert kvs(pair(X, Y), drop=("mem*",)).data.feature_names == ("cpu",)
    assert vod(pack("vod"), drop=("cpu0", "cpu2")).data.feature_names == ("cpu1",)
    with pytest.raises(UsageError, match="'disk' matches no feature"):
        _ = kvs(pair(X, Y), drop=("disk",)).data
    with pytest.raises(DataError, match="no feature column is left"):
        _ = kvs(pair(X, Y), drop=("*",)).data


def test_split_in_time_tests_the_end_and_validates_on_whole_blocks(pack: Any, made: Any) -> None:
    generator = np.random.default_rng(0)
    rows = 400
    arrays = {
        "X": generator.normal(size=(rows, 3)),
        "y_frames_per_s": generator.normal(size=rows),
        "split": np.arange(rows) % 2,
    }
    task = vod(pack("vod", **arrays), split="time")
    (fold,) = make_folds(task)
    assert fold.test.tolist() == list(range(280, 400))
    held_out = set(fold.validation.tolist())
    assert 20 < len(held_out) < 80 and max(fold.train.tolist()) < 280
    edges = sum((row in held_out) != (row + 1 in held_out) for row in range(279))
    assert edges <= 2 * len(held_out) / 5  # drawn one by one, nearly every row would be an edge
    (fold,) = make_folds(vod(pack("vod", **arrays), split="time", test_share=0.1))
    assert fold.test.tolist() == list(range(360, 400))


def test_a_short_trace_can_be_split_in_time(pair: Any) -> None:
    def of(rows: int) -> tuple[str, str]:
        return tuple("\n".join([*text.splitlines()[: rows + 1], ""]) for text in (X, Y))  # type: ignore[return-value]

    (fold,) = make_folds(kvs(pair(*of(4)), split="time"), validation=0.0)
    assert fold.train.tolist() == [0, 1, 2] and fold.test.tolist() == [3]
    with pytest.raises(DataError, match="3 rows are too few to be split in time"):
        _ = kvs(pair(*of(3)), split="time").data
    (fold,) = make_folds(kvs(pair(X, Y), split="time", test_share=0.9), validation=0.3)
    assert fold.test.tolist() == list(range(3, 30)) and len(fold.validation) == 1
