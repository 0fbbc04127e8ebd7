"""What is checked: a whole plugin, one of its offers, or one of its offers with options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qcore.errors import ConfigError
from qcore.testing.cases import expect
from qcore.testing.variants import GIVEN

if TYPE_CHECKING:
    from qcore.plugins import PluginStatus
    from qcore.registry import Registry, Spec

__all__ = ["Offer", "PluginSubject", "expect_json_config"]


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


def expect_json_config(offer: Offer) -> None:
    """Expect that the config of what ``offer`` makes survives JSON, and that an unknown option is refused."""
    config = offer.make().config
    again = type(config).model_validate_json(config.model_dump_json())
    expect(again == config, f"through JSON the config becomes {again!r}")
    try:
        offer.spec.make_config({**offer.options, "no_such_option": 1})
    except ConfigError:
        return
    expect(False, "an unknown option is accepted")
