"""Reading csv, parquet and npz files into named columns. Nothing is unpickled."""

from __future__ import annotations

import csv
import gzip
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from qcore.errors import DataError, UsageError

__all__ = ["Columns", "read_columns"]

_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})

Array = NDArray[Any]


@dataclass
class Columns:
    """The columns of a file.

    Attributes:
        path: of the file.
        values: (n,) arrays by column name, in the file's order: bool, integer, float or str.
        arrays: for npz files, the columns of each array.
        features: columns that the file itself marks as features (an array X), or None.
        others: arrays that are no columns, such as a list of class names.
        strict: whether a text column must be dropped by name (csv, parquet) or is just no feature (npz).
    """

    path: Path
    values: dict[str, Array] = field(default_factory=dict)
    arrays: dict[str, list[str]] = field(default_factory=dict)
    features: list[str] | None = None
    others: dict[str, Array] = field(default_factory=dict)
    strict: bool = True


def read_columns(path: Path, target: str | None = None) -> Columns:
    """Read a csv (also .tsv, .csv.gz), parquet or npz file.

    Args:
        path: of the file.
        target: in an npz file, arrays as long as this one are columns.

    Raises:
        DataError: the file is damaged, empty, or not what its name says.
        UsageError: the file's name ends in none of the known suffixes.
    """
    name = path.name.lower()
    for suffixes, reader in _READERS.items():
        if name.endswith(suffixes):
            return _read_guarded(reader, path, target)
    raise UsageError(f"{path} is of no known kind", "give a csv, tsv, csv.gz, parquet or npz file")


def _read_guarded(reader: Callable[[Path, str | None], Columns], path: Path, target: str | None) -> Columns:
    try:
        columns = reader(path, target)
    except (OSError, EOFError, zipfile.BadZipFile, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error or type(error).__name__}") from error
    if not columns.values:
        raise DataError(f"{path} holds no columns")
    return columns


# csv


def _read_csv(path: Path, target: str | None) -> Columns:
    with _open_text(path) as file:
        first = file.readline()
        delimiter = max("\t;,", key=first.count)
        file.seek(0)
        rows = csv.reader(file, delimiter=delimiter, strict=True)
        header = [name.strip() for name in next(rows, [])]
        _check_header(path, header)
        cells = list(zip(*_checked_rows(path, rows, len(header)), strict=True))
    if not cells:
        raise DataError(f"{path} holds a header and no rows")
    return Columns(path, {name: parse_cells(column) for name, column in zip(header, cells, strict=True)})


def _open_text(path: Path) -> IO[str]:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _check_header(path: Path, header: list[str]) -> None:
    if not header:
        raise DataError(f"{path} is empty")
    doubled = sorted({name for name in header if header.count(name) > 1})
    if doubled:
        raise DataError(f"{path} names columns twice: {', '.join(map(repr, doubled[:5]))}", "rename them")
    if all(_is_number(name) for name in header):
        raise DataError(f"{path} seems to lack a header: its first line holds numbers only", "add a line of names")


def _checked_rows(path: Path, rows: Iterator[list[str]], width: int) -> Iterator[list[str]]:
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) != width:
            raise DataError(f"{path}, row {number}: {len(row)} fields where the header has {width}")
        yield row


def parse_cells(cells: tuple[str, ...]) -> Array:
    """Return int64 if every cell is one, else float64 with NaN for missing cells, else str."""
    stripped = [cell.strip() for cell in cells]
    for dtype, values in ((np.int64, stripped), (np.float64, _fill_missing(stripped))):
        try:
            return np.array(values).astype(dtype)
        except (ValueError, OverflowError):
            continue
    return np.array(stripped)


def _fill_missing(cells: list[str]) -> list[str]:
    return ["nan" if cell.lower() in _MISSING else cell for cell in cells]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


# parquet


def _read_parquet(path: Path, target: str | None) -> Columns:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"reading {path} needs pyarrow, which is not installed", 'pip install "qcore-ml[parquet]"'
        ) from error
    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if table.num_rows == 0:
        raise DataError(f"{path} holds no rows")
    return Columns(path, {name: _arrow_values(table.column(name), pyarrow.types) for name in table.column_names})


def _arrow_values(column: Any, types: Any) -> Array:
    if types.is_floating(column.type) or types.is_integer(column.type) or types.is_boolean(column.type):
        values = column.to_numpy()
        return np.asarray(values, dtype=np.float64) if values.dtype == object else np.asarray(values)
    return np.array(["" if cell is None else str(cell) for cell in column.to_pylist()])


# npz


def _read_npz(path: Path, target: str | None) -> Columns:
    with path.open("rb") as file:  # numpy leaves a file open that it cannot make sense of
        try:
            loaded = np.load(file, allow_pickle=False)
        except ValueError as error:
            raise DataError(f"{path} is not an npz file: {error}") from error
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise DataError(f"{path} holds one bare array, not named ones", "save it with numpy.savez(X=..., y=...)")
        arrays = {key: array for key in loaded.files if (array := _npz_array(loaded, key)) is not None}
    return _npz_columns(path, arrays, target)


def _npz_array(loaded: Any, key: str) -> Array | None:
    """Return the array, or None for one of Python objects, which only pickle could read."""
    try:
        return np.asarray(loaded[key])
    except ValueError:
        return None


def _npz_columns(path: Path, arrays: dict[str, Array], target: str | None) -> Columns:
    length = _npz_length(arrays, target)
    columns = Columns(path, strict=False)
    for key, array in arrays.items():
        if array.ndim not in (1, 2) or len(array) != length:
            columns.others[key] = array
            continue
        names = [key] if array.ndim == 1 else _npz_names(key, array.shape[1], arrays, columns.values)
        columns.arrays[key] = names
        columns.values.update(zip(names, [array] if array.ndim == 1 else array.T, strict=True))
    columns.features = _npz_features(columns, arrays)
    return columns


def _npz_length(arrays: dict[str, Array], target: str | None) -> int | None:
    """Return the number of samples: the length of the target, of X, or of the longest array."""
    for key in (target, "X"):
        if key in arrays and arrays[key].ndim:
            return len(arrays[key])
    return max((len(array) for array in arrays.values() if array.ndim), default=None)


def _npz_names(key: str, width: int, arrays: dict[str, Array], taken: dict[str, Array]) -> list[str]:
    """Return the column names of a two-dimensional array: those of ``names`` beside an ``X``, else ``X_0``, ``X_1``."""
    given = arrays.get("names" + key[1:]) if key.upper().startswith("X") else arrays.get("names_" + key.lower())
    if given is not None and given.shape == (width,) and given.dtype.kind == "U":
        names = [str(name) for name in given]
        if len(set(names)) == width and not set(names) & (set(taken) | set(arrays)):
            return names
    return [f"{key}_{index}" for index in range(width)]


def _npz_features(columns: Columns, arrays: dict[str, Array]) -> list[str] | None:
    """Return the columns of the array X, or of all arrays X...; None if there is none."""
    if "X" in columns.arrays:
        return list(columns.arrays["X"])
    named = [key for key in columns.arrays if key[:1] == "X" and arrays[key].ndim == 2]
    return [name for key in named for name in columns.arrays[key]] or None


_READERS: dict[tuple[str, ...], Callable[[Path, str | None], Columns]] = {
    (".csv", ".tsv", ".csv.gz", ".tsv.gz"): _read_csv,
    (".parquet", ".pq"): _read_parquet,
    (".npz",): _read_npz,
}
