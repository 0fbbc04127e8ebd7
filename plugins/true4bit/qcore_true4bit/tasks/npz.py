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
            arrays = {key: np.asarray(loaded[key]) for key in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        raise DataError(f"{path} cannot be read as an npz file: {error or type(error).__name__}") from error
    missing = sorted(set(required) - set(arrays))
    if missing:
        raise DataError(f"{path} lacks the arrays {', '.join(missing)}", f"it holds {', '.join(arrays) or 'none'}")
    return arrays
