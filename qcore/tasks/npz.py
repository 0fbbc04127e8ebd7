"""Reading the named arrays of an npz file. Nothing is unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcore.errors import DataError

__all__ = ["read_npz"]


_MOST_BYTES = 8 << 30

_FAILURES = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(path: Path, required: Collection[str] = ()) -> dict[str, NDArray[Any]]:
    """Return all arrays of a file by name.

    Raises:
        DataError: no npz file, damaged, holding Python objects, or lacking a ``required`` array.
    """
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise DataError(f"{path} holds one bare array, not named ones")
            _check_size(path)
            arrays = {key: np.asarray(loaded[key]) for key in loaded.files}
    except _FAILURES as error:
        reason = "it holds Python objects" if "allow_pickle" in str(error) else error or type(error).__name__
        raise DataError(f"{path} cannot be read as an npz file: {reason}") from error
    missing = sorted(set(required) - set(arrays))
    if missing:
        raise DataError(f"{path} lacks the arrays {', '.join(missing)}", f"it holds {', '.join(arrays) or 'none'}")
    return arrays


def _check_size(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        nbytes = sum(entry.file_size for entry in archive.infolist())
    if nbytes > _MOST_BYTES:
        raise DataError(f"{path} unpacks to {nbytes >> 30} GiB, more than {_MOST_BYTES >> 30}")
