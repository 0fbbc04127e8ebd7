"""``qcore explain``: which kernel runs each layer, and why no faster one does."""

from __future__ import annotations

import typer

from qcore.cli.console import make_table, print_data, show
from qcore.cli.options import Backend, Json, ModelFile
from qcore.cli.session import session_of

__all__ = ["explain"]


def explain(context: typer.Context, model: ModelFile, backend: Backend = "auto", json: Json = False) -> None:
    """Show which kernel runs each layer of a model file, and why each better one was refused."""
    from qcore.export import load
    from qcore.nn import explain as explain_model

    registry = session_of(context).registry
    explanation = explain_model(load(model, backend=backend, registry=registry))
    rows = explanation.rows
    if json:
        print_data(rows)
        return
    if not rows:
        show("no packed layer: all of it runs in torch")
        return
    cells = [(row["layer"], row["op"], row["bits"], row["backend"], row["kernel"]) for row in rows]
    show(make_table(["layer", "op", "bits", "backend", "kernel"], cells))
    refused = {(r["backend"], r["reason"], r["hint"]) for row in rows for r in row["refused"]}
    for name, reason, hint in sorted(refused, key=str):
        show(f"not {name}: {reason}" + (f" ({hint})" if hint else ""))
    for finding in (*explanation.norms, *explanation.sortings):
        show(str(finding))
