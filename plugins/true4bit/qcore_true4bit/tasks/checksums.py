"""Published checksums, and the check against them."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from pathlib import Path

from qcore.errors import DataError

__all__ = ["check_digest", "file_digest", "md5"]

_HINT = "it is damaged or another version: get it again, or go on with --set task.verify=false"


def md5(data: bytes) -> str:
    """Return the MD5 of ``data`` as hex digits: it guards against damage, not against malice."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def file_digest(path: Path, algorithm: str) -> str:
    """Return the digest of a file as hex digits.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def check_digest(what: str, algorithm: str, found: str, expected: Collection[str], hint: str = _HINT) -> None:
    """Raise DataError if ``found`` is none of the ``expected`` digests of ``what``."""
    if found not in expected:
        raise DataError(f"{what} has the {algorithm} {found}, expected {' or '.join(expected)}", hint)
