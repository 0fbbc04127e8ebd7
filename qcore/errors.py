"""The errors a user of qcore can meet, each with its exit code.

::

    QcoreError                 1   a run failed, or a check failed
      UsageError               2   a bad name, key, pattern or config
        UnknownNameError       2   a name nobody offers (lists the close matches)
        ConfigError            2   a config that its model refuses
        PatternError           2   a rule pattern that matches nothing
      PluginError              3   a plugin the user named could not be loaded
      BackendError             4   a backend the user named cannot do the work
      DataError                5   data missing or bad
        QuantizationError      5   NaN or infinity in a tensor
      CalibrationError         1   a static quantizer was used before calibration
      ModelFileError           1   a model file that cannot be trusted or read
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

__all__ = [
    "BackendError",
    "CalibrationError",
    "ConfigError",
    "DataError",
    "ModelFileError",
    "PatternError",
    "PluginError",
    "QcoreError",
    "QuantizationError",
    "UnknownNameError",
    "UsageError",
    "close_matches",
    "did_you_mean",
]


class QcoreError(Exception):
    """Something the user can mend.

    Args:
        message: what was wrong, and where.
        hint: what to do about it, or None.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n{self.hint}"


class UsageError(QcoreError):
    """A bad name, key, pattern or config (exit code 2)."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that nobody offers."""


class ConfigError(UsageError):
    """A config that its model refuses."""


class PatternError(UsageError):
    """A rule pattern that matches no module."""


class PluginError(QcoreError):
    """A plugin that the user named could not be loaded (exit code 3)."""

    exit_code = 3


class BackendError(QcoreError):
    """A backend that the user named is absent or cannot do the work (exit code 4)."""

    exit_code = 4


class DataError(QcoreError):
    """Data that is missing or bad (exit code 5)."""

    exit_code = 5


class QuantizationError(DataError):
    """A tensor that cannot be quantized, such as one that holds NaN or infinity."""


class CalibrationError(QcoreError):
    """A static quantizer was used before it was calibrated."""


class ModelFileError(QcoreError):
    """A model file that is truncated, foreign, tampered with, or needs an absent plugin."""


def close_matches(name: str, known: Iterable[str]) -> list[str]:
    """Return up to three of ``known`` that look like ``name``, best first."""
    return difflib.get_close_matches(name, list(known), n=3, cutoff=0.5)


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Return a hint for a misspelt ``name``: the close matches, or the choices if they are few."""
    choices = sorted(set(known))
    close = close_matches(name, choices)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    if choices and len(choices) <= 20:
        return "choose from: " + ", ".join(choices)
    return None
