"""Check the hooks of one plugin, and collect its specs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pluggy

from qcore import hookspecs
from qcore.errors import PluginError, did_you_mean
from qcore.hookspecs import PROJECT, REGISTRATION_HOOKS
from qcore.registry import KINDS, Spec

__all__ = ["HOOKS", "check_hooks", "collect_specs", "new_manager"]

HOOKS = frozenset(name for name in vars(hookspecs) if name.startswith("qcore_"))
"""The name of every hook."""


def new_manager() -> pluggy.PluginManager:
    """Return a pluggy manager that knows our hooks and no plugin."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def check_hooks(manager: pluggy.PluginManager, plugin: object, name: str) -> None:
    """Raise PluginError unless every hook of ``plugin`` is one of ours, marked as such, and there is at least one.

    pluggy itself takes a misspelt hook in silence and never calls it.
    """
    marked = dict(_marked_hooks(manager, plugin))
    for attribute, options in marked.items():
        hook = options.get("specname") or attribute
        if hook not in HOOKS:
            nearest = did_you_mean(hook, HOOKS)
            raise PluginError(f"there is no hook {hook!r}" + (f"; {nearest}" if nearest else ""))
        if options.get("wrapper") or options.get("hookwrapper"):
            raise PluginError(f"{attribute} is a hook wrapper, and a plugin is called alone: there is nothing to wrap")
    forgotten = [hook for hook in sorted(HOOKS - set(marked)) if inspect.isroutine(getattr(plugin, hook, None))]
    if forgotten:
        raise PluginError(f"{', '.join(forgotten)} is not marked with @hookimpl")
    if not marked:
        raise PluginError(f"plugin {name!r} marks no function with @hookimpl, so it offers nothing")


def _marked_hooks(manager: pluggy.PluginManager, plugin: object) -> Iterator[tuple[str, Any]]:
    for attribute in dir(plugin):
        options = manager.parse_hookimpl_opts(plugin, attribute)
        if options is not None:
            yield attribute, options


def collect_specs(manager: pluggy.PluginManager, name: str) -> list[Spec]:
    """Call the registration hooks of the plugin ``name`` alone, and return all that they offer.

    Raises:
        PluginError: a hook returned something else than a list of its own kind of spec.
    """
    specs: list[Spec] = []
    for hook, kind in REGISTRATION_HOOKS.items():
        for implementation in getattr(manager.hook, hook).get_hookimpls():
            if implementation.plugin_name == name:
                specs += _checked(implementation.function(), hook, kind)
    return specs


def _checked(returned: object, hook: str, kind: str) -> list[Spec]:
    if not isinstance(returned, (list, tuple)):
        raise PluginError(f"{hook} must return a list of {KINDS[kind].__name__}, got {_shown(returned)}")
    specs: list[Spec] = []
    for item in returned:
        if type(item) is not KINDS[kind]:
            raise PluginError(f"{hook} must return a list of {KINDS[kind].__name__}, it contains {_shown(item)}")
        specs.append(item)
    return specs


def _shown(thing: object) -> str:
    return f"a {type(thing).__name__}" if thing is not None else "None"
