"""``qcore inspect``: what is in a model file. It needs neither torch nor the plugin that made it."""

from __future__ import annotations

import json as json_text
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from qcore.cli.console import make_table, print_data, show
from qcore.cli.options import Json, ModelFile
from qcore.cli.session import session_of

if TYPE_CHECKING:
    from qcore.export import ModelFile as File

__all__ = ["inspect"]


def inspect(context: typer.Context, model: ModelFile, json: Json = False) -> None:
    """Show what a model file holds: network, layers, bytes, and the plugins it needs."""
    from qcore.export import inspect as read
    from qcore.export.format import how_to_load

    file = read(model)
    loaded = {status.name for status in session_of(context).quiet_framework.plugins if status.status == "loaded"}
    missing = file.missing_plugins(loaded)
    if json:
        print_data(_data(file, missing))
        return
    architecture = file.architecture
    show(f"{file.path}: {file.nbytes:,} bytes, written by qcore {file.header.get('qcore', '?')}")
    show(f"network: {architecture['id'] if architecture else 'not a registered one'}")
    for name, origin in file.plugins.items():
        state = f"not loaded: {how_to_load({name: missing[name]})}" if name in missing else "loaded"
        source = f"{origin['distribution']} {origin['version']}" if origin["distribution"] else "a local file"
        show(f"needs plugin {name} ({source}): {state}")
    facts = {key: value for key, value in file.extra.items() if value not in (None, [], {})}
    show("".join(f"{key}: {_short(value)}\n" for key, value in facts.items()).rstrip())
    show(make_table(["packed layer", "weight", "input", "shape"], [_layer(*item) for item in file.layers.items()]))
    for norm, layer in file.folded.items():
        show(f"{norm}: batch norm folded into {layer}")
    rows = [(name, t.dtype, _shape(t.shape), f"{t.nbytes:,}") for name, t in file.tensors.items()]
    show(make_table(["tensor", "dtype", "shape", {"header": "bytes", "justify": "right"}], rows))


def _data(file: File, missing: dict[str, str | None]) -> dict[str, Any]:
    return {
        "file": str(file.path),
        "nbytes": file.nbytes,
        **file.header,
        "folded": file.folded,
        "missing_plugins": missing,
        "tensors": {
            name: {"dtype": tensor.dtype, "shape": list(tensor.shape), "nbytes": tensor.nbytes}
            for name, tensor in file.tensors.items()
        },
    }


def _layer(path: str, description: dict[str, Any]) -> tuple[str, str, str, str]:
    shape = _shape(description.get("packed", {}).get("shape", ()))
    return path or "(the whole)", _reference(description.get("weight")), _reference(description.get("input")), shape


def _shape(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _reference(spec: Any) -> str:
    """Return a quantizer's id, and those of its options that a listing has room for."""
    if not isinstance(spec, dict):
        return "–" if spec is None else str(spec)
    bits = f" {spec['bits']} bits" if "bits" in spec else ""
    return f"{spec.get('quantizer', '?')}{bits}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json_text.dumps(value)
    return text if len(text) <= 160 else f"{text[:157]}..."
