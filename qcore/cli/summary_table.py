"""The table that a run ends with: arms, then claims, then where everything is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcore.cli.console import make_table
from qcore.runs.report.text import UNKNOWN, difference, latency_us, number, p_text, spread

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

__all__ = ["arms_table", "claims_table", "closing_lines"]

OPTIONAL = ("bits", "latency", "p", "latency64")
"""Columns that a narrow terminal does without, the most telling first."""
GAP = 3

Data = Mapping[str, Any]


def arms_table(summary: Data, width: int) -> RenderableType:
    """Return the table of arms; a narrow one has fewer columns."""
    arms: Mapping[str, Data] = summary["arms"]
    base = baseline(summary)
    cells = [_cells(summary, name, arm, arms[base]) for name, arm in arms.items()]
    heads = {
        "arm": "arm",
        "score": str(summary["metric"]),
        "delta": f"Δ {base}",
        "p": "p",
        "size": "kB on disk",
        "bits": "bits/weight",
        "latency": "µs, batch 1",
        "latency64": "µs, batch 64",
    }
    widths = {key: max(len(heads[key]), *(len(str(row[key])) for row in cells)) + GAP for key in heads}
    wanted = [key for key in heads if key not in OPTIONAL]
    for key in OPTIONAL:
        if sum(widths[k] for k in (*wanted, key)) - GAP > width:
            break
        wanted.append(key)
    order = [key for key in heads if key in wanted]
    columns = [
        {"header": heads[key], "justify": "left" if key == "arm" else "right", "no_wrap": key != "arm"} for key in order
    ]
    return make_table(columns, [[row[key] for key in order] for row in cells])


def baseline(summary: Data) -> str:
    """Return the name of the arm that the others are compared with."""
    arms: Mapping[str, Data] = summary["arms"]
    return next((name for name, arm in arms.items() if arm.get("baseline")), next(iter(arms)))


def _cells(summary: Data, name: str, arm: Data, base: Data) -> dict[str, object]:
    from rich.text import Text

    test: Data = next((t for t in summary["tests"] if t.get("arm") == name and t.get("difference") is not None), {})
    p = test.get("p_adjusted") if test.get("p_adjusted") is not None else test.get("p_value")
    return {
        "arm": Text(name, style="bold"),
        "score": spread(arm["score"]),
        "delta": "" if not test else difference(test["difference"]) + ("*" if p is not None and p <= 0.05 else " "),
        "p": "" if p is None else p_text(p).removeprefix("p ").removeprefix("= "),
        "size": _size(arm, base),
        "bits": "" if arm.get("effective_bits") is None else f"{arm['effective_bits']:.2f}",
        "latency": _latency(arm, "1"),
        "latency64": _latency(arm, "64"),
    }


def _size(arm: Data, base: Data) -> str:
    if not arm.get("nbytes"):
        return UNKNOWN
    ratio = base["nbytes"] / arm["nbytes"] if base.get("nbytes") and arm is not base else None
    return f"{arm['nbytes'] / 1000:.1f}" + (f" ({ratio:.1f}×)" if ratio else "")


def _latency(arm: Data, batch: str) -> str:
    value = latency_us(arm, batch)
    return UNKNOWN if value is None else f"{value:,.0f}"


def claims_table(claims: Sequence[Data]) -> RenderableType:
    """Return the table of claims with their verdicts."""
    columns: list[str | Mapping[str, Any]] = [
        {"header": "claim", "ratio": 3},
        {"header": "", "no_wrap": True},
        {"header": "found", "ratio": 2},
    ]
    return make_table(columns, [(c["statement"], _verdict(c["verdict"]), _found(c)) for c in claims])


def _verdict(verdict: str) -> Text:
    from rich.text import Text

    return Text(verdict, style={"holds": "green", "fails": "red"}.get(verdict, "yellow"))


def _found(claim: Data) -> str:
    value, p, reason = claim.get("value"), claim.get("p_adjusted", claim.get("p_value")), claim.get("reason") or ""
    parts = [
        "" if value is None else _number(value),
        "" if p is None or "p = " in reason else p_text(p),
        reason,
    ]
    return "; ".join(part for part in parts if part)


def _number(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_number(item)}" for key, item in value.items())
    return number(value) or ""


def closing_lines(summary: Data, directory: Path) -> list[str]:
    """Return the lines below the tables: what the star means, and where everything is."""
    seeds, folds = len(summary["seeds"]), len(summary["folds"])
    lines = [f"mean ± standard deviation over {folds} folds × {seeds} seed(s); * p ≤ 0.05, corrected paired test"]
    for name, what in (("summary.json", "summary"), ("report.html", "report")):
        if (directory / name).is_file():
            lines.append(f"{what}: {directory / name}")
    return lines
