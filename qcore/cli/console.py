"""Where the command writes: data on stdout, everything else on stderr; no escape codes where nobody asked for them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["is_live", "make_console", "make_table", "print_data", "say", "show"]


FILE_WIDTH = 120
"""Columns of text where there is no terminal to ask, and no COLUMNS."""


def is_live(stream: TextIO) -> bool:
    """Return whether ``stream`` is a terminal on which lines can be rewritten."""
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def make_console(stream: TextIO) -> Console:
    """Return a console on ``stream``: plain text unless it is a terminal that wants colours."""
    from rich.console import Console

    if is_live(stream) and "NO_COLOR" not in os.environ:
        return Console(file=stream, highlight=False, emoji=False)
    width = None if stream.isatty() or "COLUMNS" in os.environ else FILE_WIDTH
    return Console(
        file=stream, color_system=None, force_terminal=is_live(stream), width=width, highlight=False, emoji=False
    )


def say(text: str) -> None:
    """Write a line of remarks to stderr."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def show(renderable: RenderableType) -> None:
    """Write a table or text for people to stdout."""
    make_console(sys.stdout).print(renderable)


def print_data(data: object) -> None:
    """Write ``data`` as JSON to stdout."""
    sys.stdout.write(json.dumps(data, indent=2, default=_plain) + "\n")


def _plain(value: object) -> object:
    dump: Callable[..., Any] | None = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    convert: Callable[[], Any] | None = getattr(value, "tolist", None)
    return str(value) if convert is None else convert()


def make_table(columns: Sequence[str | Mapping[str, Any]], rows: Iterable[Sequence[object]]) -> RenderableType:
    """Return a table; a column is its heading, or the arguments of ``Table.add_column``."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        options = {"header": column} if isinstance(column, str) else dict(column)
        options.setdefault("overflow", "fold")
        table.add_column(**options)
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row))
    return table
