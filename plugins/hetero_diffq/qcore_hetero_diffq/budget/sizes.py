"""Sizes as a user writes them: ``120KB``, ``1.5MiB``, ``3bit``. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Budget", "check_levels", "format_nbytes", "parse_budget"]

_UNITS = {"b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-zA-Z]+)")


@dataclass(frozen=True)
class Budget:
    """A limit, in bytes or in mean bits a number.

    Attributes:
        text: as it was written.
        nbytes: bytes, or None.
        bits: mean bits of a weight (of an activation, where those are counted), or None.
    """

    text: str
    nbytes: int | None = None
    bits: float | None = None

    @property
    def label(self) -> str:
        """The text as a part of an arm's name: lower case letters, digits and underscores."""
        return re.sub(r"[^a-z0-9]+", "_", self.text.lower().replace(" ", "")).strip("_")


def parse_budget(text: str) -> Budget:
    """Return what ``text`` says: a number with B, KB, MB, GB (1000), KiB, MiB, GiB (1024), or ``bit``.

    Raises:
        ValueError: it is no such text, or not above 0.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = match[2].lower() if match else ""
    number = Fraction(match[1]) * _UNITS.get(unit, 1) if match else Fraction(0)
    known = unit in _UNITS and number >= 1 or unit in ("bit", "bits") and number > 0
    if match is None or not known:
        examples = "120KB, 1.5MB, 70KiB, 65536B or, in mean bits a number, 3bit"
        raise ValueError(f"a budget is written like {examples}, not {text!r}")
    if unit in _UNITS:
        return Budget(text, nbytes=int(number))
    return Budget(text, bits=float(number))


def check_levels(levels: Sequence[int]) -> None:
    """Raise ValueError unless ``levels`` rise and are among 1 to 8."""
    if not levels or list(levels) != sorted(set(levels)) or not set(range(1, 9)).issuperset(levels):
        raise ValueError(f"levels rise and are among 1 to 8, not {list(levels)}")


def format_nbytes(nbytes: int) -> str:
    """Return ``nbytes`` for people, in units of 1000."""
    if nbytes < 10_000:
        return f"{nbytes:,} bytes"
    return f"{nbytes / 1e3:,.1f} kB" if nbytes < 10_000_000 else f"{nbytes / 1e6:,.2f} MB"
