"""Section: what a method or a plugin adds to the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Section"]


@dataclass(frozen=True)
class Section:
    """A part of the report that the core does not write itself.

    Attributes:
        title: heading.
        text: plain text, escaped; an empty line starts a paragraph.
        html: markup, which goes into the page as it is and must load nothing from elsewhere.
        figure: a plotly figure as data, ``{"data": [...], "layout": {...}}``. A colour may be written as ``"--accent"``
            or ``"--s0"`` to ``"--s7"``, which follow the page's light or dark theme.
    """

    title: str
    text: str = ""
    html: str = ""
    figure: Mapping[str, Any] | None = None
