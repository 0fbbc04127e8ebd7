"""``qcore compare``: finished runs side by side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qcore.cli.console import make_console, make_table, print_data, show
from qcore.cli.options import Json
from qcore.errors import UsageError

if TYPE_CHECKING:
    from qcore.runs import Comparison

__all__ = ["compare"]

WIDE = 100
"""Columns of text from which all columns are shown."""


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Directories of finished runs.")],
    json: Json = False,
) -> None:
    """Compare finished runs of one task: all their arms, side by side."""
    from qcore.runs import compare as compare_runs

    if len(runs) < 2:
        raise UsageError("a comparison needs two runs or more", "qcore compare RUN RUN...")
    found = compare_runs(runs)
    if json:
        print_data(found.to_dict())
        return
    show(_table(found, make_console(sys.stdout).width))
    if found.tests:
        show(f"Δ to {found.tests[0]['baseline']}; * p ≤ 0.05, corrected paired test")
    else:
        show("the runs have other seeds, so their scores are not paired and not tested")


def _table(found: Comparison, width: int) -> Any:
    from qcore.runs.report.text import UNKNOWN, difference, latency_us, p_text, spread

    tests = {(test["run"], test["arm"]): test for test in found.tests}
    rows: list[list[object]] = []
    for row in found.rows:
        test = tests.get((row["run"], row["arm"]), {})
        change, p = test.get("difference"), test.get("p_adjusted")
        star = "*" if p is not None and p <= 0.05 else " "
        cells: list[object] = [
            Path(row["run"]).name,
            row["arm"],
            spread(row),
            "" if change is None else difference(change) + star,
            UNKNOWN if row["nbytes"] is None else f"{row['nbytes'] / 1000:.1f}",
        ]
        median = latency_us(row, "1")
        wide = ["" if p is None else p_text(p), UNKNOWN if median is None else f"{median:,.0f}"]
        rows.append([*cells, *(wide if width >= WIDE else [])])
    numbers = [found.metric, "Δ", "kB on disk", *(["", "µs, batch 1"] if width >= WIDE else [])]
    columns = ({"header": name, "justify": "right", "no_wrap": True} for name in numbers)
    return make_table(["run", "arm", *columns], rows)
