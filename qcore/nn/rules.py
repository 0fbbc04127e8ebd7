"""Rules: which layers are quantized, and how. Ordered; the first pattern that matches a layer wins."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from qcore.errors import ConfigError, PatternError, did_you_mean
from qcore.nn.layers import is_quantizable
from qcore.quantizers.base import Quantizer
from qcore.quantizers.make import QuantizerRef

__all__ = ["Rule", "Rules", "assign", "parse_rules"]

Rules = Mapping[str, Any]
"""Pattern to what it asks for: None (stays float), a quantizer reference (weight only), or
``{"weight": reference, "input": reference}``. A pattern is a glob over module paths, ``type:Class``, or ``re:...``."""


@dataclass(frozen=True)
class Rule:
    """One pattern and the quantizers it asks for; both None: the layer stays float."""

    pattern: str
    weight: QuantizerRef | None
    input: QuantizerRef | None

    def matches(self, path: str, module: nn.Module) -> bool:
        """Return whether the pattern covers ``module`` at ``path``."""
        if self.pattern.startswith("type:"):
            return type(module).__name__ == self.pattern.removeprefix("type:")
        if self.pattern.startswith("re:"):
            return re.fullmatch(self.pattern.removeprefix("re:"), path) is not None
        return fnmatch.fnmatchcase(path, self.pattern)


def parse_rules(rules: Rules) -> list[Rule]:
    """Read ``rules`` in order.

    Raises:
        ConfigError: a pattern or value that is no rule, or a regular expression that cannot be read.
    """
    if not isinstance(rules, Mapping):
        raise ConfigError(f"rules are a mapping of patterns, not {rules!r}", "write {'*': 'core/int(bits=4)'}")
    return [_parse(pattern, value) for pattern, value in rules.items()]


def _parse(pattern: str, value: Any) -> Rule:
    if not isinstance(pattern, str):
        raise ConfigError(f"{pattern!r} is no pattern", "a pattern is text, such as 'features.*'")
    if pattern.startswith("re:"):
        try:
            re.compile(pattern.removeprefix("re:"))
        except re.error as error:
            raise ConfigError(f"the pattern {pattern!r} is no regular expression: {error}") from None
    if value is None:
        return Rule(pattern, None, None)
    if isinstance(value, str | Quantizer) or isinstance(value, Mapping) and "quantizer" in value:
        return Rule(pattern, value, None)
    if isinstance(value, Mapping) and value:
        for key in value:
            if key not in ("weight", "input"):
                raise ConfigError(f"rule {pattern!r}: unknown key {key!r}", did_you_mean(key, ["weight", "input"]))
        return Rule(pattern, value.get("weight"), value.get("input"))
    raise ConfigError(
        f"rule {pattern!r}: {value!r} is no rule",
        "give None, a quantizer such as 'core/int(bits=4)', or {'weight': ..., 'input': ...}",
    )


def assign(model: nn.Module, rules: Rules) -> dict[str, Rule]:
    """Return the rule of each layer that is to be quantized, by module path.

    A layer that stands in several places has as many paths, and one rule.

    Raises:
        PatternError: a pattern matches no layer; the message lists the layers.
        ConfigError: a layer's paths get different rules.
    """
    parsed = parse_rules(rules)
    layers = {path: module for path, module in model.named_modules(remove_duplicate=False) if is_quantizable(module)}
    for rule in parsed:
        if not any(rule.matches(path, module) for path, module in layers.items()):
            raise PatternError(f"the pattern {rule.pattern!r} matches no layer", _explain(rule, layers))
    chosen: dict[str, Rule] = {}
    for path, module in layers.items():
        first = next((rule for rule in parsed if rule.matches(path, module)), None)
        if first is not None and (first.weight is not None or first.input is not None):
            chosen[path] = first
    _check_shared(layers, chosen)
    return chosen


def _check_shared(layers: Mapping[str, nn.Module], chosen: Mapping[str, Rule]) -> None:
    first_path: dict[int, str] = {}
    for path, module in layers.items():
        other = first_path.setdefault(id(module), path)
        asked, before = chosen.get(path), chosen.get(other)
        if (asked and (asked.weight, asked.input)) != (before and (before.weight, before.input)):
            raise ConfigError(f"{other} and {path} are one layer, but the rules treat them differently")


def _explain(rule: Rule, layers: Mapping[str, nn.Module]) -> str:
    if not layers:
        return "the model has no float Linear or Conv2d layer (is it quantized already?)"
    names = ", ".join(f"{path or '(the model itself)'} ({type(module).__name__})" for path, module in layers.items())
    close = did_you_mean(rule.pattern, layers) or ""
    return f"{close + '; ' if close.startswith('did') else ''}its layers are: {names}"
