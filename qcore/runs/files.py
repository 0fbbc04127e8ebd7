"""Files of a run: written whole or not at all, read with a clear error."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qcore.errors import QcoreError
from qcore.export.atomic import atomic_write as write_bytes

__all__ = ["atomic_write", "atomic_write_json", "make_folder", "read_json", "remove_stale"]


def atomic_write(path: Path, data: bytes | str) -> Path:
    """Write ``data`` to ``path``, whose folder is made if need be: a reader sees the old file or the new one.

    Raises:
        QcoreError: the disk is full, the folder cannot be written to, and the like; ``path`` is as it was.
    """
    make_folder(path.parent)
    return write_bytes(path, data.encode("utf-8") if isinstance(data, str) else data)


def atomic_write_json(path: Path, data: Any) -> Path:
    """Write ``data`` as indented JSON, atomically; NaN and infinity, which JSON has not, become null."""
    return atomic_write(path, json.dumps(_known(data), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def make_folder(path: Path) -> None:
    """Make ``path`` and the folders above it.

    Raises:
        QcoreError: the system refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise QcoreError(f"cannot make {path}: {reason}", "choose another folder with --out") from error


def read_json(path: Path) -> Any:
    """Return the JSON data of ``path``.

    Raises:
        QcoreError: the file is missing or is no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise QcoreError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise QcoreError(f"{path} is damaged: {error}") from error


def remove_stale(directory: Path) -> None:
    """Remove the temporary files that a killed process left below ``directory``."""
    for path in directory.rglob(".*.tmp"):
        try:
            path.unlink()
        except OSError as error:
            raise QcoreError(f"cannot remove {path}: {error.strerror or error}") from error


def _known(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _known(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_known(item) for item in value]
    return value
