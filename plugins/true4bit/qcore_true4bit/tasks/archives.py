"""Reading the files of a tar.gz archive, or of the folder it was extracted to. Nothing is written to disk."""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from pathlib import Path

from qcore.errors import DataError

__all__ = ["archive_names", "read_archive", "read_folder"]

_MAX_NBYTES = 2**28
"""Bound of one file, against archives that unpack to far more than they are: the official ones hold up to 155 MB."""

_CHUNK = 2**20

_ERRORS = (tarfile.TarError, OSError, EOFError, zlib.error)


def archive_names(path: Path) -> set[str]:
    """Return the names of the regular files in an archive.

    Raises:
        DataError: it is no tar.gz archive, or damaged.
    """
    return {member.name.removeprefix("./") for member, _ in _members(path)}


def read_archive(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the ``wanted`` files of an archive, by their full names in it.

    All else is skipped, so a name such as ``../x`` leads nowhere.

    Raises:
        DataError: the archive is damaged, lacks a file, has it twice, or the file is too large.
    """
    missing = set(wanted)
    for member, archive in _members(path):
        name = member.name.removeprefix("./")
        if name not in wanted:
            continue
        if name not in missing:
            raise DataError(f"{path} holds {name} twice")
        missing.remove(name)
        yield name, _content(path, archive, member)
    if missing:
        raise DataError(f"{path} lacks {', '.join(sorted(missing))}", "it is damaged, or another archive")


def read_folder(folder: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the ``wanted`` files of a folder.

    Raises:
        DataError: a file is missing, too large or cannot be read.
    """
    for name in wanted:
        path = folder / name
        try:
            _check_size(path, path.stat().st_size)
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        yield name, content


def _members(path: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    """Yield the regular files; ``yield`` stays out of the guards, so that errors of the caller pass unchanged."""
    with ExitStack() as opened:
        try:
            stream = opened.enter_context(gzip.open(path))
            archive = opened.enter_context(tarfile.open(fileobj=stream, mode="r:"))
        except _ERRORS as error:
            raise DataError(f"{path} is no tar.gz archive, or damaged: {error or type(error).__name__}") from error
        while (member := _next(path, stream, archive)) is not None:
            if member.isreg():
                yield member, archive


def _next(path: Path, stream: gzip.GzipFile, archive: tarfile.TarFile) -> tarfile.TarInfo | None:
    """Return the next member, or None at the end, where gzip has checked its sum over the whole archive."""
    try:
        member = archive.next()
        while member is None and stream.read(_CHUNK):
            pass
    except _ERRORS as error:
        raise _damaged(path, error) from error
    return member


def _content(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    _check_size(path / member.name, member.size)
    try:
        file = archive.extractfile(member)
        assert file is not None  # a regular file
        content = file.read()
    except _ERRORS as error:
        raise _damaged(path, error) from error
    if len(content) != member.size:
        raise DataError(f"{path} is cut off in {member.name}", "get it again")
    return content


def _check_size(path: Path, nbytes: int) -> None:
    if nbytes > _MAX_NBYTES:
        raise DataError(f"{path} holds {nbytes} bytes, more than {_MAX_NBYTES}, so it is not what it is named after")


def _damaged(path: Path, error: BaseException) -> DataError:
    return DataError(f"{path} is damaged: {error or type(error).__name__}", "get it again")
