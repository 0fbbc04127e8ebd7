"""Where a task's data lie."""

from __future__ import annotations

import os
from pathlib import Path

from qcore.errors import DataError

__all__ = ["resolve_data"]


def resolve_data(data: str | None, name: str, needs: str) -> Path:
    """Return the path of ``data``: absolute, relative to the working directory, or relative to ``QCORE_DATA``.

    Args:
        data: what the user gave.
        name: id of the task, for messages.
        needs: what the task needs, for messages.

    Raises:
        DataError: nothing was given, or nothing is there.
    """
    if data is None:
        raise DataError(f"{name} needs {needs}", "name it with --data; QCORE_DATA may name the folder it lies in")
    given = Path(data).expanduser()
    root = os.environ.get("QCORE_DATA")
    candidates = [given] if given.is_absolute() or not root else [given, Path(root).expanduser() / given]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    looked = " or ".join(str(candidate) for candidate in candidates)
    hint = "check the path" if root else "check the path, or set QCORE_DATA to the folder that the data lie in"
    raise DataError(f"{name} needs {needs}, but there is nothing at {looked}", hint)
