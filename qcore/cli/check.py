"""``qcore check``: the conformance checks of a plugin."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from qcore.cli.console import make_table, print_data, show
from qcore.cli.options import Json
from qcore.cli.session import session_of

__all__ = ["check"]

STYLES = {"passed": "green", "failed": "red", "skipped": "yellow", "expected": "yellow"}


def check(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A plugin, a path to one, or the name of what one offers.")],
    json: Json = False,
    verbose: Annotated[bool, typer.Option("--all", help="Show the checks that passed as well.")] = False,
) -> None:
    """Check that what a plugin offers keeps the promises of its interface."""
    from qcore.testing import run_checks

    session = session_of(context)
    results = run_checks(name, session.framework)
    failed = [result for result in results if result.status == "failed"]
    if json:
        print_data([result.to_dict() for result in results])
    else:
        shown = [result for result in results if verbose or result.status != "passed"]
        rows = [
            (Text(r.status, style=STYLES.get(r.status, "")), r.check, r.subject, r.message or r.reason) for r in shown
        ]
        if rows:
            show(make_table(["", "check", "on", "why"], rows))
        counts = {status: sum(r.status == status for r in results) for status in STYLES}
        show(", ".join(f"{count} {status}" for status, count in counts.items() if count) or "nothing to check")
    if failed:
        raise typer.Exit(1)
