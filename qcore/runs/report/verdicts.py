"""The report's chapters on claims and tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from qcore.runs.report.material import Material
from qcore.runs.report.page import Column, Html, badge, escape, note, section, table
from qcore.runs.report.text import difference, number, p_text

__all__ = ["claims", "tests"]

TONES = {"holds": "good", "fails": "bad", "untested": "neutral"}


def claims(material: Material) -> Html:
    """Return the table of claims with their verdicts."""
    found: Sequence[Mapping[str, Any]] = material.summary["claims"]
    if not found:
        return section("Claims", note("This method makes no claims."))
    columns = (Column("Claim"), Column("Verdict"), Column("Value", number=True), Column("Test"))
    rows = [
        [
            Html(f"{escape(claim['statement'])}<small>{escape(claim['id'])}</small>"),
            badge(claim["verdict"], TONES.get(claim["verdict"], "neutral")),
            _value(claim["value"]),
            _test_text(claim),
        ]
        for claim in found
    ]
    return section("Claims", table(columns, rows), lead="The paper's statements, checked on this run's evidence.")


def _value(value: Any) -> Html | str | None:
    if isinstance(value, Mapping):
        return Html("<br>".join(f"{escape(key)} {escape(number(item))}" for key, item in value.items()))
    return number(value)


def _test_text(claim: Mapping[str, Any]) -> Html:
    p = claim.get("p_adjusted") if claim.get("p_adjusted") is not None else claim.get("p_value")
    reason = claim.get("reason") or ""
    parts = [claim.get("test"), p_text(p) if p is not None and "p = " not in reason else None, reason]
    return Html("".join(f"<div>{escape(part)}</div>" for part in parts if part))


def tests(material: Material) -> Html:
    """Return the table of paired tests."""
    found: Sequence[Mapping[str, Any]] = material.summary["tests"]
    if not found:
        return Html("")
    columns = (
        Column("Arm"),
        Column("Against"),
        Column("Mean difference", number=True),
        Column("95\u00a0% interval", number=True),
        Column("p", number=True),
        Column("p, Holm", number=True, title="corrected over the arms"),
        Column("p, Wilcoxon", number=True, title="signed ranks, not corrected for overlapping training sets"),
        Column("Remark"),
    )
    names = "; ".join(dict.fromkeys(str(row["test"]) for row in found if row.get("test")))
    return section("Tests", table(columns, [_test_row(row) for row in found]), lead=names)


def _test_row(row: Mapping[str, Any]) -> list[object]:
    change, ends = row.get("difference"), row.get("interval")
    return [
        row.get("arm"),
        row.get("baseline"),
        None if change is None else difference(change),
        None if not ends else f"{difference(ends[0])} to {difference(ends[1])}",
        *(_p(row.get(key)) for key in ("p_value", "p_adjusted", "wilcoxon_p")),
        row.get("reason"),
    ]


def _p(value: float | None) -> str | None:
    return None if value is None else p_text(value).removeprefix("p ").removeprefix("= ")
