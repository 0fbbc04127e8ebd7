"""Switches: which plugins are not to be imported, and who said so."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcore.errors import ConfigError, UnknownNameError, UsageError, close_matches, did_you_mean
from qcore.plugins.discovery import CORE, normalize

__all__ = ["CONFIG_FILE", "Rule", "Switches", "read_config"]

CONFIG_FILE = "qcore.toml"


@dataclass(frozen=True)
class Rule:
    """One switch: an allow-list, names to leave out, or both.

    Attributes:
        source: what the user wrote it in, for messages.
        only: the allow-list, or None for no opinion on what it does not name.
        disable: names that are left out.
        strict: whether a name that is not installed is an error (it was typed just now) or may pass.
    """

    source: str
    only: frozenset[str] | None = None
    disable: frozenset[str] = frozenset()
    strict: bool = False

    def allows(self, name: str) -> bool | None:
        """Return whether ``name`` is to be loaded; None for no opinion."""
        if name in self.disable:
            return False
        return None if self.only is None else name in self.only


@dataclass(frozen=True)
class Switches:
    """Rules in order: the first with an opinion on a plugin decides."""

    rules: tuple[Rule, ...]

    @classmethod
    def collect(
        cls,
        *,
        only: Iterable[str] | None,
        disable: Iterable[str],
        no_plugins: bool,
        environment: Mapping[str, str],
        config: Mapping[str, Any],
    ) -> Switches:
        """Gather the rules: ``no_plugins``, ``disable`` and ``only``, then the environment, then the config file.

        Raises:
            ConfigError: the config's ``[plugins]`` table is malformed.
        """
        rules = [Rule("--no-plugins", only=frozenset())] if no_plugins else []
        rules.append(Rule("--no-plugin", disable=_names(disable), strict=True))
        rules.append(Rule("the list of plugins to load", only=None if only is None else _names(only), strict=True))
        if "QCORE_PLUGINS" in environment:
            rules.append(Rule("QCORE_PLUGINS", only=_names(environment["QCORE_PLUGINS"].split(","))))
        rules.append(
            Rule("QCORE_DISABLE_PLUGINS", disable=_names(environment.get("QCORE_DISABLE_PLUGINS", "").split(",")))
        )
        rules.append(_config_rule(config))
        return cls(tuple(rules))

    def reason(self, name: str) -> str | None:
        """Return why the plugin ``name`` is disabled, or None if it is not."""
        for rule in self.rules:
            allowed = rule.allows(name)
            if allowed is not None:
                return None if allowed else f"disabled by {rule.source}"
        return None

    def check(self, installed: Iterable[str]) -> list[str]:
        """Check the names in the rules against the ``installed`` plugins.

        Returns:
            Warnings: names in the environment or the config file that look misspelt.

        Raises:
            UsageError: a flag would disable the core.
            UnknownNameError: a flag names no installed plugin.
        """
        known = set(installed)
        warnings = []
        for rule in self.rules:
            for name in sorted((rule.only or frozenset()) | rule.disable):
                if rule.strict and name == CORE and name in rule.disable:
                    raise UsageError(f"{rule.source}: the plugin {CORE!r} is qcore itself and cannot be disabled")
                if name in known or name == CORE:
                    continue
                if rule.strict:
                    raise UnknownNameError(f"{rule.source}: there is no plugin {name!r}", did_you_mean(name, known))
                if close_matches(name, known):
                    warnings.append(f"{rule.source} names no plugin {name!r}; {did_you_mean(name, known)}")
        return warnings


def read_config(config: Mapping[str, Any] | str | Path | None) -> Mapping[str, Any]:
    """Return the config: a mapping as it is, a TOML file read, or for None the ``qcore.toml`` of this folder, if any.

    Raises:
        ConfigError: the file is absent, unreadable or not TOML.
    """
    if isinstance(config, Mapping):
        return config
    path = Path(CONFIG_FILE if config is None else config)
    if config is None and not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _config_rule(config: Mapping[str, Any]) -> Rule:
    table = config.get("plugins", {})
    if not isinstance(table, Mapping):
        raise ConfigError(f"{CONFIG_FILE}: 'plugins' must be a table with 'only' and 'disable'")
    for key in table:
        if key not in ("only", "disable"):
            raise ConfigError(f"{CONFIG_FILE}: [plugins] has no option {key!r}", did_you_mean(key, ("only", "disable")))
    only, disable = (_config_names(table, key) for key in ("only", "disable"))
    return Rule(f"{CONFIG_FILE} [plugins]", only=only, disable=disable or frozenset())


def _config_names(table: Mapping[str, Any], key: str) -> frozenset[str] | None:
    names = table.get(key)
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{CONFIG_FILE}: [plugins] {key} must be a list of plugin names, got {names!r}")
    return _names(names)


def _names(names: Iterable[str]) -> frozenset[str]:
    return frozenset(normalize(name) for name in names if name.strip())
