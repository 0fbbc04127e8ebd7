"""Where a task's data lie."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from qcore.errors import DataError

__all__ = ["locate", "resolve_data"]


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


def locate(data: str | None, names: Sequence[str], inside: Sequence[str], *, task: str, needs: str, page: str) -> Path:
    """Return the file that tells where and in which form the data lie.

    Args:
        data: what the user gave: a file, which is returned, or a folder, in which to look.
        names: what to look for in QCORE_DATA or in the user's folder, the best first; relative paths of files.
        inside: what else to look for in the user's folder, which may be an extracted archive.
        task: id of the task, for messages.
        needs: what the task needs, for messages.
        page: where the data can be had, for messages.

    Raises:
        DataError: nothing was found; says what was looked for.
    """
    hint = f"get it from {page}, and name it with --data or put it into the folder that QCORE_DATA names"
    if data is not None:
        given = resolve_data(data, task, needs)
        return given if given.is_file() else _first(given, [*names, *inside], task, needs, hint)
    root = os.environ.get("QCORE_DATA")
    if not root:
        raise DataError(f"{task} needs {needs}; no data were named and QCORE_DATA is not set", hint)
    return _first(Path(root).expanduser(), names, task, needs, hint)


def _first(folder: Path, names: Sequence[str], task: str, needs: str, hint: str) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{task} needs {needs}; {folder} holds none of {', '.join(names)}", hint)
