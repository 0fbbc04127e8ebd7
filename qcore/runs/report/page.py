"""The frame of the report: escaping, tables, sections and the one page they stand in.

Everything that reaches the page goes through ``escape`` unless it is already ``Html``.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

__all__ = ["Column", "Html", "badge", "definitions", "escape", "figure", "note", "page", "section", "table"]


class Html(str):
    """Markup that was made here and needs no escaping."""

    __slots__ = ()


@dataclass(frozen=True)
class Column:
    """A table's column: its heading, whether it holds numbers, and what the heading means."""

    name: str
    number: bool = False
    title: str = ""


def escape(value: object) -> Html:
    """Return ``value`` as markup; ``Html`` passes unchanged, None is a dash."""
    if isinstance(value, Html):
        return value
    return Html("–") if value is None else Html(html.escape(str(value), quote=True))


def badge(text: str, tone: str = "neutral") -> Html:
    """Return a small label; ``tone`` is good, bad, or neutral, and never the only sign of the meaning."""
    marks = {"good": "✓ ", "bad": "✗ ", "neutral": ""}
    return Html(f'<span class="badge {escape(tone)}">{marks.get(tone, "")}{escape(text)}</span>')


def note(text: object) -> Html:
    """Return a paragraph of secondary text."""
    return Html(f'<p class="note">{escape(text)}</p>')


def table(columns: Sequence[Column], rows: Iterable[Sequence[object]], *, marked: Iterable[int] = ()) -> Html:
    """Return a table that scrolls inside its own box; ``marked`` are the indices of rows to stress."""
    stressed = set(marked)
    head = "".join(f"<th{_cell_class(c)}{_title(c)} scope=col>{escape(c.name)}</th>" for c in columns)
    body = "".join(_row(columns, row, index in stressed) for index, row in enumerate(rows))
    return Html(f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')


def _row(columns: Sequence[Column], row: Sequence[object], stressed: bool) -> str:
    cells = "".join(f"<td{_cell_class(c)}>{escape(value)}</td>" for c, value in zip(columns, row, strict=True))
    return f"<tr{' class=marked' if stressed else ''}>{cells}</tr>"


def _cell_class(column: Column) -> str:
    return " class=number" if column.number else ""


def _title(column: Column) -> str:
    return f' title="{escape(column.title)}"' if column.title else ""


def definitions(items: Mapping[str, object]) -> Html:
    """Return a list of names with their values."""
    parts = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in items.items())
    return Html(f'<dl class="facts">{parts}</dl>')


def figure(spec: Mapping[str, Any], *, caption: str = "", fallback: Html | None = None, height: int = 420) -> Html:
    """Return a plotly figure; ``fallback`` is a static picture that stands in where scripts do not run."""
    data = json.dumps(_finite(spec), separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    static = fallback or Html("<noscript><p class=note>This picture needs scripts; the tables do not.</p></noscript>")
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return Html(
        f'<figure><div class="static">{static}</div><div class="plot" style="height:{height}px" hidden></div>'
        f'<script type="application/json">{data}</script>{text}</figure>'
    )


def _finite(value: Any) -> Any:
    """Return ``value`` as JSON data, with null for numbers that JSON lacks."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if hasattr(value, "tolist"):
        return _finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def section(title: str, *parts: object, lead: str = "") -> Html:
    """Return a section with a heading that can be linked to."""
    anchor = "".join(char if char.isalnum() else "-" for char in title.lower()).strip("-")
    text = f'<p class="lead">{escape(lead)}</p>' if lead else ""
    body = "".join(escape(part) for part in parts)
    return Html(f'<section id="{escape(anchor)}"><h2>{escape(title)}</h2>{text}{body}</section>')


def page(title: str, header: Html, sections: Iterable[Html], *, plots: bool = True) -> str:
    """Return the whole page; with ``plots``, plotly is inlined once."""
    scripts = ""
    if plots:
        from plotly.offline import get_plotlyjs

        scripts = f"<script>{get_plotlyjs()}</script>\n<script>{_template('report.js')}</script>"
    return (
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
        '<meta name=viewport content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_template('report.css')}</style>\n</head>\n<body>\n<main>\n"
        f"{header}\n{''.join(sections)}\n</main>\n{scripts}\n</body>\n</html>\n"
    )


def _template(name: str) -> str:
    return resources.files("qcore.runs.report").joinpath("template", name).read_text(encoding="utf-8")
