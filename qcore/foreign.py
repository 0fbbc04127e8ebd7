"""Run code of others: the one place that catches everything a plugin may throw at us."""

from __future__ import annotations

import contextlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from qcore.errors import QcoreError

__all__ = ["ForeignError", "guarded"]

T = TypeVar("T")

_LONGEST_REASON = 300


class ForeignError(Exception):
    """Code of a plugin raised, or called ``sys.exit``.

    Attributes:
        stage: what was being done, such as ``import``.
        reason: the error in one line, with the file and line it came from.
        details: the whole traceback as text.
    """

    def __init__(self, stage: str, reason: str, details: str = "") -> None:
        super().__init__(stage, reason)
        self.stage = stage
        self.reason = reason
        self.details = details

    def __str__(self) -> str:
        return f"{self.stage}: {self.reason}"


def guarded(stage: str, work: Callable[[], T]) -> T:
    """Return ``work()``; what it prints goes to stderr, so that data on stdout stay clean.

    Raises:
        ForeignError: for any ``Exception`` and for ``SystemExit``. Ctrl-C passes.
    """
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return work()
    except ForeignError:
        raise
    except (Exception, SystemExit) as error:  # a plugin may raise anything; sys.exit() must not end the host
        details = "".join(traceback.format_exception(error))
        raise ForeignError(stage, describe(error), details) from error


def describe(error: BaseException) -> str:
    """Return ``error`` in one line: its type, its message, and where it was raised."""
    if isinstance(error, QcoreError):
        return " ".join(error.message.split())
    message = " ".join(str(traceback.TracebackException.from_exception(error)).split())  # survives a broken __str__
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if len(text) > _LONGEST_REASON:
        text = text[:_LONGEST_REASON] + "..."
    return text + _place(error)


def _place(error: BaseException) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({Path(error.filename).name}:{error.lineno})"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__ and not frame.filename.startswith("<frozen ")
    ]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
