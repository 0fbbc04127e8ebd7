"""``qcore.get``: the verb that has no room of its own."""

from __future__ import annotations

from typing import Any

from qcore.plugins import default

__all__ = ["get"]


def get(kind: str, name: str, **config: Any) -> Any:
    """Make anything registered: ``qcore.get("quantizer", "core/int", bits=4)``.

    Args:
        kind: ``quantizer``, ``router``, ``backend``, ``method``, ``task``, ``model`` or ``exporter``.
        name: ``plugin/name``, or a bare name that one plugin alone offers.
        **config: its options.

    Raises:
        UnknownNameError: no loaded plugin offers it.
        ConfigError: its config refuses the options; all problems are listed.
    """
    return default().registry.make(kind, name, **config)
