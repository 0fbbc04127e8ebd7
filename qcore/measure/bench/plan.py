"""What is timed: layer shapes, batches and weights, read from the words of a command. Torch-free."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from qcore.errors import UsageError, did_you_mean

__all__ = [
    "BATCHES",
    "BITS",
    "MODEL_BATCHES",
    "SHAPES",
    "Shape",
    "Weight",
    "parse_counts",
    "parse_sample",
    "parse_weights",
]

_MOST = 1 << 24
"""Features of a layer, and samples of a batch: above it, a typing error is likelier than a wish."""


@dataclass(frozen=True)
class Shape:
    """A linear layer from ``cols`` input features to ``rows`` output features."""

    cols: int
    rows: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read ``"2560x6912"``: input features, then output features.

        Raises:
            UsageError: it is not of that form.
        """
        found = re.fullmatch(r"\s*(\d{1,8})\s*[xX×]\s*(\d{1,8})\s*", text)
        sizes = [int(part) for part in found.groups()] if found else []
        if not sizes or not all(1 <= size <= _MOST for size in sizes):
            raise UsageError(
                f"--shape {text}: no shape of a layer", "write input and output features, such as 2560x6912"
            )
        return cls(*sizes)

    def __str__(self) -> str:
        return f"{self.cols} -> {self.rows}"


@dataclass(frozen=True)
class Weight:
    """How a weight is stored, and whether the input becomes integers too.

    Attributes:
        bits: 1 to 8, or None for ternary codes.
        group_size: columns that share a scale; None: a row has one.
        float_input: the input stays float (weight-only); else it becomes 8 bits, dynamic, per token.
    """

    bits: int | None
    group_size: int | None = None
    float_input: bool = False

    def __str__(self) -> str:
        parts = ["ternary" if self.bits is None else f"{self.bits} bit"]
        if self.group_size is not None:
            parts.append(f"g{self.group_size}")
        if self.float_input:
            parts.append("float input")
        return ", ".join(parts)


SHAPES = (Shape(2560, 6912), Shape(4096, 4096), Shape(1536, 640), Shape(640, 320))
BATCHES = (1, 8, 64, 256)
MODEL_BATCHES = (1, 64)
BITS = "ternary,4,8,1"


def parse_weights(text: str, group_size: int | None = None, *, float_input: bool = False) -> tuple[Weight, ...]:
    """Read a list such as ``"ternary,4,8"``.

    Raises:
        UsageError: a width is neither ``ternary`` nor 1 to 8, or the groups are empty.
    """
    if group_size is not None and group_size < 1:
        raise UsageError(f"--group-size {group_size}: a group has at least one column")
    bits = [_bits(word) for word in _words(text, "--bits")]
    return tuple(dict.fromkeys(Weight(width, group_size, float_input) for width in bits))


def parse_counts(text: str, option: str) -> tuple[int, ...]:
    """Read a list of whole numbers above 0, such as ``"1,8,64"``.

    Raises:
        UsageError: one of them is none; ``option`` names where it stands.
    """
    words = _words(text, option)
    for word in words:
        if not re.fullmatch(r"\d{1,8}", word) or not 1 <= int(word) <= _MOST:
            raise UsageError(f"{option} {text}: {word!r} is no whole number above 0", "write a list such as 1,8,64")
    return tuple(dict.fromkeys(int(word) for word in words))


def parse_sample(text: str) -> tuple[int, ...]:
    """Read the shape of one sample, such as ``"64"`` or ``"3x32x32"``.

    Raises:
        UsageError: it is not of that form.
    """
    sizes = text.strip().lower().replace("×", "x").split("x")
    if not all(re.fullmatch(r"\d{1,8}", size) and 1 <= int(size) <= _MOST for size in sizes):
        raise UsageError(f"--input {text}: no shape of a sample", "write its sizes, such as 64 or 3x32x32")
    return tuple(int(size) for size in sizes)


def _words(text: str, option: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError(f"{option} is empty")
    return words


def _bits(word: str) -> int | None:
    if word == "ternary":
        return None
    if not re.fullmatch(r"[1-8]", word):
        known: Iterable[str] = ("ternary", *map(str, range(1, 9)))
        raise UsageError(f"--bits: there are no weights of {word!r} bits", did_you_mean(word, known))
    return int(word)
