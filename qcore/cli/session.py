"""What the global options say, and the plugins they allow. One a command; handed on in the typer context."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import typer

from qcore.cli.console import say

if TYPE_CHECKING:
    from qcore.plugins import Framework, PluginStatus
    from qcore.registry import Registry

__all__ = ["Session", "session_of"]


@dataclass
class Session:
    """The global options.

    Attributes:
        no_plugins: load no installed plugin.
        disable: plugins to leave out.
        debug: show tracebacks.
        quiet: no progress and no remarks.
    """

    no_plugins: bool = False
    disable: tuple[str, ...] = ()
    debug: bool = False
    quiet: bool = False

    @cached_property
    def quiet_framework(self) -> Framework:
        """The plugins, loaded on first use and made the default; nothing is said of those that failed."""
        from qcore.plugins import Framework, set_default

        framework = Framework(no_plugins=self.no_plugins, disable=self.disable)
        set_default(framework)
        return framework

    @cached_property
    def framework(self) -> Framework:
        """The plugins; the first use writes a line for each that failed."""
        for warning in self.quiet_framework.warnings():
            self.remark(warning)
        return self.quiet_framework

    @property
    def registry(self) -> Registry:
        """What the plugins offer."""
        return self.framework.registry

    @property
    def plugins(self) -> list[PluginStatus]:
        """What became of each plugin, if they have been looked at; for messages about failures."""
        loaded: Framework | None = self.__dict__.get("quiet_framework")
        return loaded.plugins if loaded else []

    def remark(self, text: str) -> None:
        """Write a line to stderr, unless asked to be quiet."""
        if not self.quiet:
            say(text)


def session_of(context: typer.Context) -> Session:
    """Return the session of the command that runs in ``context``."""
    session = context.find_object(Session)
    return session if session is not None else Session()
