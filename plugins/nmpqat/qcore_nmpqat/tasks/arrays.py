"""The arrays of a packed npz file, checked as they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcore.errors import DataError
from qcore.tasks.npz import read_npz
from qcore_nmpqat.tasks.base import split_as_folds

__all__ = ["PackedFile", "as_classes"]

_HINT = "it is damaged, or another file of that name"


class PackedFile:
    """A packed npz file.

    Attributes:
        path: of the file.
        rows: how many samples: the length of the first required array, which all arrays of samples have.

    Args:
        path: of the file.
        required: arrays that it must hold, one of samples first.

    Raises:
        DataError: no npz file, damaged, holding Python objects or no rows, or lacking a required array.
    """

    def __init__(self, path: Path, required: Sequence[str]) -> None:
        self.path = path
        self._arrays = read_npz(path, required)
        name = required[0]
        self.rows = len(self._arrays[name]) if self._arrays[name].ndim else 0
        if not self.rows:
            raise self.wrong(name, "some rows")

    def matrix(self, key: str, columns: int | None = None) -> NDArray[Any]:
        """Return numbers (rows, columns).

        Raises:
            DataError: other than numbers, or of another shape.
        """
        array = self._arrays[key]
        width = "columns" if columns is None else columns
        if (
            array.dtype.kind not in "iuf"
            or array.ndim != 2
            or len(array) != self.rows
            or columns not in (None, array.shape[1])
        ):
            raise self.wrong(key, f"numbers ({self.rows}, {width})")
        return array

    def numbers(self, key: str) -> NDArray[Any]:
        """Return numbers (rows,).

        Raises:
            DataError: other than numbers, or of another shape.
        """
        array = self._arrays[key]
        if array.dtype.kind not in "iuf" or array.shape != (self.rows,):
            raise self.wrong(key, f"numbers ({self.rows},)")
        return array

    def classes(self, key: str, count: int) -> Tensor:
        """Return (rows,) int64 labels below ``count``.

        Raises:
            DataError: other than such labels.
        """
        return as_classes(self.numbers(key), count, f"{self.path}: {key}")

    def whole(self, key: str) -> Tensor:
        """Return whole numbers (rows,) as int64.

        Raises:
            DataError: other than such numbers.
        """
        array = self.numbers(key)
        if not np.isfinite(array).all() or (array != np.round(array)).any():
            raise DataError(f"{self.path}: {key} holds other things than whole numbers", _HINT)
        return torch.from_numpy(array.astype(np.int64))

    def names(self, key: str, count: int) -> tuple[str, ...]:
        """Return ``count`` different names.

        Raises:
            DataError: other than such names.
        """
        array = self._arrays[key]
        if array.dtype.kind != "U" or array.shape != (count,) or len(set(array.tolist())) != count:
            raise self.wrong(key, f"{count} different names")
        return tuple(map(str, array))

    def folds(self, key: str = "split") -> Tensor:
        """Return (rows,) int64 folds of a split into 0 (train) and 1 (test).

        Raises:
            DataError: other than such a split, or one part is empty.
        """
        split = self.numbers(key)
        if not np.array_equal(np.unique(split), [0, 1]):
            raise self.wrong(key, "0 (train) and 1 (test), and both")
        return split_as_folds(torch.from_numpy(split == 1))

    def wrong(self, key: str, expected: str) -> DataError:
        """Return the error that says what the array is and what was expected."""
        array = self._arrays[key]
        return DataError(f"{self.path}: {key} is {array.dtype} {array.shape}, expected {expected}", _HINT)


def as_classes(labels: NDArray[Any], count: int, what: str) -> Tensor:
    """Return ``labels`` (n,) as int64.

    Raises:
        DataError: they are no whole numbers from 0 to ``count - 1``.
    """
    whole = labels.astype(np.int64) if np.isfinite(labels).all() else np.full(labels.shape, -1)
    if len(labels) == 0 or (whole != labels).any() or whole.min() < 0 or whole.max() >= count:
        raise DataError(f"{what} holds other labels than 0 to {count - 1}", _HINT)
    return torch.from_numpy(whole)
