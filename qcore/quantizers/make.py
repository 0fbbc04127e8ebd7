"""References to quantizers: ``"core/int(bits=4)"``, a mapping, or a quantizer itself."""

from __future__ import annotations

import ast
import copy
from collections.abc import Mapping
from typing import Any

from qcore.errors import ConfigError
from qcore.plugins import default
from qcore.quantizers.base import Quantizer
from qcore.registry import Registry

__all__ = ["QuantizerRef", "make_quantizer", "parse_reference"]

QuantizerRef = str | Mapping[str, Any] | Quantizer
"""What names a quantizer: ``"id"``, ``"id(key=value, ...)"``, ``{"quantizer": id, key: value}``, or a quantizer."""


def parse_reference(reference: str) -> tuple[str, dict[str, Any]]:
    """Split ``"plugin/name(key=value, ...)"`` into the name and its options; values are Python literals.

    Raises:
        ConfigError: if the options cannot be read.
    """
    name, bracket, rest = reference.strip().partition("(")
    if not bracket:
        return name, {}
    try:
        call = ast.parse(f"f({rest}", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.args:
            raise ValueError("options are given as key=value")
        options = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords if word.arg}
        if len(options) < len(call.keywords):
            raise ValueError("each option is given once, as key=value")
        return name.strip(), options
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ConfigError(f"cannot read {reference!r}: {error}", "write it like core/int(bits=4)") from None


def make_quantizer(reference: QuantizerRef, registry: Registry | None = None) -> Quantizer:
    """Make the quantizer that ``reference`` names; a quantizer is copied.

    Raises:
        UnknownNameError: no loaded plugin offers it.
        ConfigError: the reference cannot be read, or the quantizer's config refuses the options.
    """
    registry = registry or default().registry
    if isinstance(reference, Quantizer):
        copied = copy.deepcopy(reference)
        copied.spec_id = copied.spec_id or _offered_as(type(copied), registry)
        return copied
    name, options = _read(reference)
    spec = registry.get("quantizer", name)
    quantizer: Quantizer = registry.make("quantizer", spec.id, **options)
    quantizer.spec_id = spec.id
    return quantizer


def _read(reference: str | Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    if isinstance(reference, str):
        return parse_reference(reference)
    if isinstance(reference, Mapping) and isinstance(reference.get("quantizer"), str):
        options = dict(reference)
        return options.pop("quantizer"), options
    raise ConfigError(
        f"{reference!r} names no quantizer", "write 'core/int(bits=4)', or {'quantizer': 'core/int', 'bits': 4}"
    )


def _offered_as(kind: type[Quantizer], registry: Registry) -> str:
    """Return the id under which ``kind`` is registered, so that a file can name it; ``""`` if it is not."""
    target = f"{kind.__module__}:{kind.__qualname__}"
    return next((spec.id for spec in registry.list("quantizer") if spec.target == target), "")
