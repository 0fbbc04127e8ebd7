"""Files that appear whole or not at all. Torch-free."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from qcore.errors import QcoreError

__all__ = ["atomic_write"]


def atomic_write(path: Path, data: bytes) -> Path:
    """Write ``data`` to ``path`` through a temporary file beside it, flushed to disk before it takes the name.

    Raises:
        QcoreError: the disk is full, or the folder is missing or not writable; what stood at ``path`` still stands.
    """
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise QcoreError(
            f"cannot write {path}: {error.strerror or error}",
            "earlier files are intact; free space or choose another folder",
        ) from error
    finally:
        if temporary:
            with contextlib.suppress(OSError):
                Path(temporary).unlink(missing_ok=True)
    return path


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
