"""``qcore predict``: run a saved model on a file of features."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qcore.cli.console import make_table, print_data, show
from qcore.cli.options import Backend, Json, ModelFile
from qcore.cli.session import session_of
from qcore.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from qcore.export import ModelFile as File

__all__ = ["predict", "prediction_rows"]

SHOWN = 20
"""Rows that a terminal shows; a file and JSON have all."""

SHOWN_VALUES = 6
"""Values of a row that a table shows, likewise."""


def predict(
    context: typer.Context,
    model: ModelFile,
    data: Annotated[Path, typer.Option("--data", help="A csv, parquet or npz file with the model's features.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write a .csv or .json file.")] = None,
    backend: Backend = "auto",
    json: Json = False,
) -> None:
    """Predict a class, or a value or several, for each row of a file."""
    from qcore.export import inspect, load
    from qcore.tasks.table import Table

    session = session_of(context)
    if out is not None and out.suffix not in (".csv", ".json"):
        raise UsageError(f"{out}: predictions are written as .csv or .json")
    file = inspect(model)
    network = load(model, backend=backend, registry=session.registry)
    inputs = Table.read_features(data, file.extra.get("features") or ())
    rows = prediction_rows(network, file, inputs)
    if out is not None:
        _write(out, rows)
        session.remark(f"{len(rows)} predictions in {out}")
    if json:
        print_data(rows)
    elif out is None:
        _show(rows)


def prediction_rows(network: nn.Module, file: File, inputs: Tensor) -> list[dict[str, Any]]:
    """Return one row a sample: its number, class and probabilities, or value(s); expert and uncertainty where known."""
    from qcore.training import outputs

    output = outputs(network, inputs)
    classes = file.extra.get("classes") or []
    rows = [{"row": row} for row in range(len(inputs))]
    if classes or file.extra.get("problem") == "classification":
        found = _class_rows(output, classes)
    else:
        found = _value_rows(output.reshape(len(inputs), -1), file.extra.get("targets") or [])
    routed = _routing_rows(network, inputs)
    return [{**a, **b, **c} for a, b, c in zip(rows, found, routed or [{}] * len(inputs), strict=True)]


def _class_rows(output: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    probabilities = output.softmax(dim=-1)
    names = list(classes) or [str(number) for number in range(probabilities.shape[-1])]
    best = probabilities.argmax(dim=-1).tolist()
    return [
        {"class": names[winner], "probability": row[winner], "probabilities": dict(zip(names, row, strict=True))}
        for winner, row in zip(best, probabilities.tolist(), strict=True)
    ]


def _value_rows(output: Tensor, targets: Sequence[str]) -> list[dict[str, Any]]:
    """Return each sample's value, or its values by name of the target; by number where the file has no names."""
    if output.shape[1] == 1:
        return [{"value": value} for value in output[:, 0].tolist()]
    names = list(targets) or [str(number) for number in range(output.shape[1])]
    return [{"values": dict(zip(names, row, strict=True))} for row in output.tolist()]


def _routing_rows(network: nn.Module, inputs: Tensor) -> list[dict[str, Any]]:
    """Return each sample's expert and its uncertainty, of the network's first mixture of experts; [] if it has none."""
    import torch

    from qcore.nn import MixtureOfExperts

    mixture = next((module for module in network.modules() if isinstance(module, MixtureOfExperts)), None)
    if mixture is None:
        return []
    with torch.no_grad():
        network(inputs)
    routing = mixture.last_routing
    if routing is None or len(routing.weights) != len(inputs):
        return []
    experts = routing.weights.argmax(dim=-1).tolist()
    uncertainty = [None] * len(inputs) if routing.uncertainty is None else routing.uncertainty.tolist()
    return [{"expert": e, "uncertainty": u} for e, u in zip(experts, uncertainty, strict=True)]


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row for a file of columns: one column a class or a value."""
    plain = {key: value for key, value in row.items() if key not in ("probabilities", "values")}
    return {**plain, **row.get("values", {}), **{f"p({n})": p for n, p in row.get("probabilities", {}).items()}}


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import json

    from qcore.runs.files import atomic_write

    if path.suffix == ".json":
        atomic_write(path, json.dumps(rows, indent=2) + "\n")
        return
    text = io.StringIO()
    flat = [_flat(row) for row in rows]
    writer = csv.DictWriter(text, fieldnames=list(flat[0]) if flat else ["row"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    atomic_write(path, text.getvalue())


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    values = list(rows[0].get("values", {})) if rows else []
    rows = [{**row, **row.get("values", {})} for row in rows]
    hidden = {"probabilities", "values", *values[SHOWN_VALUES:]}
    keys = [key for key in (rows[0] if rows else {}) if key not in hidden]
    if sys.stdout.isatty():
        shown, rest = rows[:SHOWN], len(rows) - SHOWN
    else:
        shown, rest = rows, 0
    columns: list[str | Mapping[str, Any]] = [
        {"header": key, "justify": "left" if key == "class" else "right"} for key in keys
    ]
    show(make_table(columns, [[_cell(row[key]) for key in keys] for row in shown]))
    if len(values) > SHOWN_VALUES:
        show(f"and {len(values) - SHOWN_VALUES} more values a row: --out FILE writes them all")
    if rest > 0:
        show(f"and {rest} more: --out FILE writes them all")


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else "–" if value is None else str(value)
