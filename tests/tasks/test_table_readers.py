from __future__ import annotations

import builtins
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qcore.errors import DataError, UsageError
from qcore.tasks.table_readers import parse_cells, read_columns


def test_cells_become_whole_numbers_numbers_or_text() -> None:
    assert parse_cells(("1", " -2 ")).dtype == np.int64
    assert parse_cells(("1", "2.5", "")).tolist()[:2] == [1.0, 2.5]
    assert np.isnan(parse_cells(("1", "NA"))[1])
    assert parse_cells(("1", "x")).tolist() == ["1", "x"]
    assert parse_cells(("99999999999999999999",)).dtype == np.float64


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_delimiters_and_quotes_are_understood(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(delimiter.join(["a", "b"]) + "\n" + delimiter.join(["1", f'"x{delimiter}y"']) + "\n\n", "utf-8")
    columns = read_columns(path).values
    assert columns["a"].tolist() == [1] and columns["b"].tolist() == [f"x{delimiter}y"]


def test_a_byte_order_mark_and_compression_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    with gzip.open(path, "wt", encoding="utf-8-sig") as file:
        file.write("a,b\n1,2\n")
    assert list(read_columns(path).values) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\n", "a header and no rows"),
        ("a,b\n1,2\n3\n", "row 3: 1 fields where the header has 2"),
        ("a,a\n1,2\n", "names columns twice: 'a'"),
        ("1.5,2\n1,2\n", "seems to lack a header"),
        ('a,b\n"1,2\n', "cannot be read"),
    ],
)
def test_a_bad_csv_is_refused_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_columns(path)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.npz", "t.parquet"])
def test_random_bytes_are_refused_whatever_they_are_called(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(bytes(range(128, 256)) * 8)
    with pytest.raises(DataError, match="cannot be read|not an npz"):
        read_columns(path)


def test_a_truncated_npz_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez_compressed(path, X=np.random.default_rng(0).random((50, 4)), y=np.arange(50))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="cannot be read|not an npz"):
        read_columns(path)


def test_an_npz_damaged_inside_an_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    np.savez(path, X=np.zeros((50, 4)), y=np.arange(50))
    data = bytearray(path.read_bytes())
    data[600] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="cannot be read"):
        read_columns(path)


def test_a_bare_array_is_no_table(tmp_path: Path) -> None:
    path = tmp_path / "t.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="one bare array"):
        read_columns(path)


def test_an_unknown_suffix_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="known kind"):
        read_columns(tmp_path / "t.xlsx")


def test_parquet_columns_keep_their_kinds(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "t.parquet"
    table = {"a": [1, 2], "b": [0.5, None], "c": ["x", None], "d": [True, False], "e": [1, None], "f": [True, None]}
    parquet.write_table(pyarrow.table(table), path)
    values = read_columns(path).values
    assert values["a"].tolist() == [1, 2] and values["a"].dtype.kind == "i"
    assert values["b"][0] == 0.5 and np.isnan(values["b"][1])
    assert values["c"].tolist() == ["x", ""]
    assert values["d"].tolist() == [True, False]
    assert values["e"][0] == 1 and np.isnan(values["e"][1])
    assert values["f"][0] == 1 and np.isnan(values["f"][1])


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_pyarrow(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="pyarrow") as caught:
        read_columns(path)
    assert 'pip install "qcore-ml[parquet]"' in str(caught.value)
