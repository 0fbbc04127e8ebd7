"""``qcore info``: all about one plugin, or one thing that it offers."""

from __future__ import annotations

import typing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qcore.cli.console import make_table, print_data, show
from qcore.cli.options import Json
from qcore.cli.session import session_of
from qcore.errors import UnknownNameError, did_you_mean

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from qcore.plugins import PluginStatus
    from qcore.registry import Spec

__all__ = ["info"]


def info(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="A plugin, or the name of what one offers, such as core/int.")],
    json: Json = False,
) -> None:
    """Show all about a plugin, a quantizer, a method, ...: options, paper, origin."""
    session = session_of(context)
    wanted = name.replace("-", "_")
    specs = [spec for spec in session.registry if wanted in (spec.id, spec.name)]
    plugins = [status for status in session.framework.plugins if status.name == wanted]
    if not specs and not plugins:
        known = {status.name for status in session.framework.plugins}
        known |= {word for spec in session.registry for word in (spec.id, spec.name)}
        raise UnknownNameError(f"nothing is called {name!r}", did_you_mean(wanted, known) or "see: qcore list")
    if json:
        print_data([*(status.listing() for status in plugins), *(_spec_data(spec) for spec in specs)])
        return
    for status in plugins:
        show(_facts(_plugin_facts(status)))
    for spec in specs:
        show(_facts(_spec_facts(spec)))
        model = spec.load_config()
        if model is not None and model.model_fields:
            show(make_table(["option", "type", "default", "meaning"], _option_rows(model)))


def _facts(facts: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2))
    for key, value in facts.items():
        if value not in (None, "", [], ()):
            grid.add_row(Text(key, style="dim"), Text(_words(value)))
    return grid


def _words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    return str(value)


def _plugin_facts(status: PluginStatus) -> dict[str, Any]:
    return {
        "plugin": status.name,
        "about": status.summary,
        "status": status.status,
        "problem": status.problem,
        "origin": status.origin,
        "file": status.file,
        "offers": status.specs,
    }


def _spec_facts(spec: Spec) -> dict[str, Any]:
    return {
        spec.kind: spec.id,
        "about": spec.summary,
        "reference": spec.reference,
        "origin": f"{spec.distribution or 'local'} {spec.version or ''}".strip(),
        "code": spec.target,
        **spec.details(),
    }


def _spec_data(spec: Spec) -> dict[str, Any]:
    model = spec.load_config()
    return {
        **spec.listing(),
        "target": spec.target,
        "distribution": spec.distribution,
        "version": spec.version,
        "options": None if model is None else model.model_json_schema(),
    }


def _option_rows(model: type[BaseModel]) -> list[tuple[str, str, str, str]]:
    return [
        (name, _type_name(field.annotation), _default(field), field.description or "")
        for name, field in model.model_fields.items()
    ]


def _type_name(annotation: Any) -> str:
    """Return a type as a reader writes it: ``int | None``, ``'row' | 'group'``."""
    if annotation is type(None):
        return "null"
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return " | ".join(repr(argument) for argument in arguments)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if arguments and origin not in (list, tuple, dict):
        return " | ".join(dict.fromkeys(_type_name(argument) for argument in arguments))
    if origin in (list, tuple):
        inner = " | ".join(dict.fromkeys(_type_name(a) for a in arguments if a is not Ellipsis))
        return f"list of {inner}"
    return "table" if origin is dict else getattr(annotation, "__name__", str(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(required)"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "null"
    return _words(value) if isinstance(value, list | tuple) else str(value)
