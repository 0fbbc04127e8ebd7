"""Reading csv files of numbers, plain or gzipped, without a Python object for each of their cells."""

from __future__ import annotations

import csv
import gzip
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from qcore.errors import DataError

__all__ = ["read_header", "read_numbers"]


def read_header(path: Path) -> list[str]:
    """Return the names in a file's first line.

    Raises:
        DataError: the file cannot be read, or its first line holds no names but numbers or the same name twice.
    """
    try:
        with _open(path) as file:
            names = [name.strip() for name in next(csv.reader(file), [])]
    except (OSError, EOFError, ValueError, zlib.error, csv.Error) as error:
        raise _unreadable(path, error) from error
    if not names or all(_is_number(name) for name in names):
        raise DataError(f"{path} lacks a first line with the names of its columns")
    if len(set(names)) < len(names):
        doubled = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"{path} names columns twice: {', '.join(map(repr, doubled[:5]))}")
    return names


def read_numbers(
    path: Path,
    *,
    columns: Sequence[int] | None = None,
    width: int | None = None,
    header: bool = False,
    limit: int | None = None,
    dtype: Any = np.float32,
) -> NDArray[Any]:
    """Return the numbers of a file as (rows, columns).

    Args:
        path: csv, or gzipped csv if its name ends in .gz.
        columns: which to read; None for all.
        width: how many columns the file has, where that is known.
        header: whether the first line holds names.
        limit: read so many rows at most.
        dtype: of the result; a text dtype takes cells as they are.

    Raises:
        DataError: the file cannot be read, is cut off, holds text or no rows, or has another width.
    """
    try:
        with _open(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that there are no rows is judged below
            found: NDArray[Any] = np.loadtxt(
                file,
                delimiter=",",
                dtype=dtype,
                comments=None,
                quotechar='"',
                skiprows=int(header),
                usecols=columns,
                max_rows=limit,
                ndmin=2,
            )
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _unreadable(path, error) from error
    if len(found) == 0:
        raise DataError(f"{path} holds no rows")
    if width is not None and found.shape[1] != width:
        raise DataError(f"{path} has {found.shape[1]} columns, expected {width}", "it is another file of that name")
    return found


def _open(path: Path) -> IO[str]:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _unreadable(path: Path, error: BaseException) -> DataError:
    return DataError(f"{path} cannot be read as a csv file of numbers: {error or type(error).__name__}")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
