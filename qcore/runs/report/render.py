"""The whole report as one page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qcore.runs.report.arms import arms_table, header, pareto
from qcore.runs.report.learning import learning
from qcore.runs.report.material import Material
from qcore.runs.report.page import Html, escape, figure, note, page, section
from qcore.runs.report.provenance import provenance
from qcore.runs.report.routing import routing
from qcore.runs.report.section import Section
from qcore.runs.report.verdicts import claims, tests

__all__ = ["render"]


def render(material: Material, sections: Sequence[Section] = (), problems: Iterable[str] = ()) -> str:
    """Return the report as HTML.

    Args:
        material: the run.
        sections: what the method and plugins add.
        problems: what went wrong while they were asked, for the reader to know.
    """
    own = [arms_table(material), pareto(material), claims(material), routing(material), learning(material)]
    foreign = [_foreign(part) for part in sections]
    warnings = [section("Left out", *(note(problem) for problem in problems))] if problems else []
    last = [tests(material), provenance(material), _footer()]
    return page(f"{material.title} · qcore", header(material), [*own, *foreign, *warnings, *last])


def _foreign(part: Section) -> Html:
    paragraphs = [Html(f"<p>{escape(text)}</p>") for text in part.text.split("\n\n") if text.strip()]
    drawn = [figure(part.figure)] if part.figure else []
    return section(part.title, *paragraphs, *drawn, Html(part.html))


def _footer() -> Html:
    return Html(
        "<footer>Written by qcore. Numbers come from summary.json and the result.json of each fold beside this page."
        " A dash is a number that is not known.</footer>"
    )
