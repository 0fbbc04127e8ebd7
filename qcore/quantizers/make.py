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
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("options are given as key=value")
        return name.strip(), {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"cannot read {reference!r}: {error}", "write it like core/int(bits=4)") from None


def make_quantizer(reference: QuantizerRef, registry: Registry | None = None) -> Quantizer:
    """Make the quantizer that ``reference`` names; a quantizer is copied.

    Raises:
        UnknownNameError: no loaded plugin offers it.
        ConfigError: its config refuses the options.
    """
    if isinstance(reference, Quantizer):
        return copy.deepcopy(reference)
    if isinstance(reference, str):
        name, options = parse_reference(reference)
    else:
        options = dict(reference)
        name = str(options.pop("quantizer", ""))
    registry = registry or default().registry
    spec = registry.get("quantizer", name)
    quantizer: Quantizer = registry.make("quantizer", spec.id, **options)
    quantizer.spec_id = spec.id
    return quantizer
