from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from qcore.errors import DataError
from qcore_nmpqat.tasks.numbers import read_header, read_numbers


def test_columns_limits_and_headers(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('\ufeff"a",b,c\n1,2,3\n4,5,6e-1\n', encoding="utf-8")
    assert read_header(path) == ["a", "b", "c"]
    assert read_numbers(path, header=True).tolist() == [[1, 2, 3], [4, 5, np.float32(0.6)]]
    assert read_numbers(path, header=True, columns=[2, 0], limit=1).tolist() == [[3, 1]]
    assert read_numbers(path, header=True, dtype=str, columns=[1]).tolist() == [["2"], ["5"]]


def test_one_row_or_column_stays_a_table(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("1,2\n")
    assert read_numbers(path).shape == (1, 2)
    path.write_text("1\n2\n")
    assert read_numbers(path).shape == (2, 1)


@pytest.mark.parametrize("text", ["1,2\n3\n", "1,x\n", "1,2\n# 3,4\n", "1;2\n"])
def test_what_is_no_table_of_numbers_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=f"{path} cannot be read"):
        read_numbers(path)


@pytest.mark.parametrize("data", [b"", b"1,2\n", b"\xff\xfe\x00"], ids=["empty", "text", "noise"])
def test_what_is_no_archive_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    path.write_bytes(data)
    for read in (read_numbers, read_header):
        with pytest.raises(DataError):
            read(path)


def test_an_archive_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"1,2\n" * 1000)[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        read_numbers(path)


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xff\xfe1,2\n")
    for read in (read_numbers, read_header):
        with pytest.raises(DataError, match="cannot be read"):
            read(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_numbers(tmp_path / "gone.csv")
