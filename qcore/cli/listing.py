"""``qcore list`` and ``qcore plugins``."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.text import Text

from qcore.cli.console import make_table, print_data, show
from qcore.cli.options import Json
from qcore.cli.session import session_of
from qcore.plugins import PluginStatus
from qcore.registry import Spec

__all__ = ["list_specs", "plugins"]

STYLES = {"loaded": "green", "failed": "red", "incompatible": "yellow", "disabled": "dim"}


def list_specs(
    context: typer.Context,
    kind: Annotated[
        str | None,
        typer.Argument(help="quantizers, routers, backends, methods, tasks, models or exporters; all if not given."),
    ] = None,
    json: Json = False,
) -> None:
    """List what the plugins offer."""
    specs = session_of(context).registry.list(kind)
    if json:
        print_data([spec.listing() for spec in specs])
        return
    for number, name in enumerate(dict.fromkeys(spec.kind for spec in specs)):
        if number:
            show("")
        rows = [(spec.id, _about(spec)) for spec in specs if spec.kind == name]
        columns: list[dict[str, Any]] = [{"header": f"{name}s", "min_width": 28, "style": "bold"}, {"header": ""}]
        show(make_table(columns, rows))


def _about(spec: Spec) -> Text:
    details = _details(spec)
    return Text(spec.summary).append(f" ({details})" if details else "", style="dim")


def _details(spec: Spec) -> str:
    """Return what a listing says about this kind alone, in few words."""
    details = spec.details()
    if spec.kind == "quantizer":
        return f"{_range(details['bits'])}, {' '.join(details['tensors'])}"
    if spec.kind == "router":
        return "knows uncertainty" if details["uncertainty"] else ""
    if spec.kind == "task":
        return str(details["needs"] or details["problem"])
    values = next(iter(details.values()), "")
    return ", ".join(values) if isinstance(values, list) else str(values)


def _range(bits: list[float]) -> str:
    if not bits:
        return "any bits"
    low, high = min(bits), max(bits)
    if low == high:
        return "1 bit" if low == 1 else f"{low:g} bits"
    return f"{low:g}-{high:g} bits"


def plugins(
    context: typer.Context,
    json: Json = False,
    timing: Annotated[bool, typer.Option("--timing", help="Show how long each import took.")] = False,
) -> None:
    """List the installed plugins, and why any of them is not loaded."""
    found = session_of(context).quiet_framework.plugins
    if json:
        print_data([status.listing() for status in found])
        return
    columns = ["plugin", "status", "distribution", "about", *(["import ms"] if timing else [])]
    show(make_table(columns, [_plugin_row(status, timing) for status in found]))


def _plugin_row(status: PluginStatus, timing: bool) -> list[object]:
    row: list[object] = [
        Text(status.name, style="bold"),
        Text(status.status, style=STYLES.get(status.status, "")),
        status.origin,
        status.problem or status.summary or f"offers {len(status.specs)}",
    ]
    return [*row, status.import_ms] if timing else row
