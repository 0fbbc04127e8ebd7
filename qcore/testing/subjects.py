"""What is checked: a whole plugin, one of its offers, or one of its offers with options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qcore.testing.variants import GIVEN

if TYPE_CHECKING:
    from qcore.plugins import PluginStatus
    from qcore.registry import Registry, Spec

__all__ = ["Offer", "PluginSubject"]


@dataclass(frozen=True)
class PluginSubject:
    """A loaded plugin.

    Attributes:
        status: what became of it.
        specs: what it offers.
    """

    status: PluginStatus
    specs: tuple[Spec, ...]

    def __str__(self) -> str:
        return self.status.name


@dataclass(frozen=True)
class Offer:
    """Something that a plugin offers, with options.

    Attributes:
        spec: its spec.
        registry: where it stands.
        options: what its config model is given.
    """

    spec: Spec
    registry: Registry
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        told = [f"{key}={value!r}" for key, value in self.options.items() if GIVEN.get(key) != value]
        return f"{self.spec.id}({', '.join(told)})" if told else self.spec.id

    def make(self) -> Any:
        """Return a new one, as the registry makes it."""
        made = self.registry.make(self.spec.kind, self.spec.id, **self.options)
        if hasattr(made, "spec_id"):
            made.spec_id = self.spec.id
        return made
