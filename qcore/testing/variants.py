"""Which configs of an offer are checked: its default, one for each choice of each option, and its own examples."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from qcore.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from qcore.registry import Spec

__all__ = ["GIVEN", "variants"]

GIVEN: dict[str, Any] = {
    "in_features": 6,
    "out_features": 3,
    "experts": 3,
    "in_channels": 2,
    "image_size": 8,
}
"""Values for the options without default that the core's own interfaces name."""

_GROUP_SIZE = 4
_MOST_CHOICES = 8


def variants(spec: Spec) -> list[dict[str, Any]]:
    """Return configs of ``spec`` that are valid, the default first, each once.

    From the default, one option at a time takes each of its other choices: both values of a bool, every value of a
    ``Literal``, every whole number of a small range (``bits`` from 1 to 8). An offer can add configs of its own, as
    ``examples`` in its config model's ``json_schema_extra``.

    Raises:
        ConfigError: if the default config is refused, or one of the offer's own examples.
    """
    model = spec.load_config()
    if model is None:
        return [{}]
    base = {name: value for name, value in GIVEN.items() if name in model.model_fields}
    spec.make_config(base)
    own = [{**base, **example} for example in _examples(model)]
    for options in own:
        spec.make_config(options)
    tried = [*own, *(options for options in _single_changes(model, base) if _is_valid(spec, options))]
    return _unique(model, [base, *tried])


def _examples(model: type[BaseModel]) -> list[Mapping[str, Any]]:
    extra = model.model_config.get("json_schema_extra")
    examples = extra.get("examples", []) if isinstance(extra, dict) else []
    return [example for example in examples if isinstance(example, Mapping)] if isinstance(examples, list) else []


def _single_changes(model: type[BaseModel], base: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, field in model.model_fields.items():
        for choice in _choices(field.annotation, field.metadata):
            change = {name: choice}
            if choice == "group" and "group_size" in model.model_fields:
                change["group_size"] = _GROUP_SIZE
            yield {**base, **change}


def _choices(annotation: Any, metadata: list[Any]) -> list[Any]:
    if annotation is bool:
        return [False, True]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return [choice for member in get_args(annotation) for choice in _choices(member, metadata)]
    low = next((item.ge for item in metadata if getattr(item, "ge", None) is not None), None)
    high = next((item.le for item in metadata if getattr(item, "le", None) is not None), None)
    if annotation is int and low is not None and high is not None and high - low < _MOST_CHOICES:
        return list(range(low, high + 1))
    return []


def _is_valid(spec: Spec, options: Mapping[str, Any]) -> bool:
    try:
        spec.make_config(options)
    except ConfigError:
        return False
    return True


def _unique(model: type[BaseModel], options: list[dict[str, Any]]) -> list[dict[str, Any]]:
    seen: dict[str, dict[str, Any]] = {}
    for option in options:
        seen.setdefault(model.model_validate(option).model_dump_json(), option)
    return list(seen.values())
