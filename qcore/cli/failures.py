"""What the user sees when something goes wrong, and the exit code that goes with it."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from qcore.cli.console import is_live, make_console, say
from qcore.errors import QcoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qcore.plugins import PluginStatus

__all__ = ["INTERRUPTED", "print_error", "report_failure"]

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT."""


def report_failure(error: BaseException, *, debug: bool, plugins: Iterable[PluginStatus] = ()) -> int:
    """Tell the user about ``error`` and return the exit code."""
    if debug:
        say("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, QcoreError):
        print_error(error.message, error.hint)
        return error.exit_code
    if isinstance(error, KeyboardInterrupt):
        say("interrupted")
        return INTERRUPTED
    print_error(*_unexpected(error, plugins, debug=debug))
    return 1


def print_error(message: str, hint: str | None = None) -> None:
    """Write an error to stderr: in a panel on a terminal, in plain lines elsewhere."""
    if not is_live(sys.stderr):
        say(f"error: {message}" + (f"\nhint: {hint}" if hint else ""))
        return
    from rich.panel import Panel
    from rich.text import Text

    text = Text(message)
    if hint:
        text.append("\n\nhint: ", style="bold").append(hint)
    make_console(sys.stderr).print(Panel(text, title="error", title_align="left", border_style="red"))


def _unexpected(error: BaseException, plugins: Iterable[PluginStatus], *, debug: bool) -> tuple[str, str | None]:
    name = type(error).__name__
    what = f"{name}: {error}" if str(error) else name
    if isinstance(error, OSError):  # a full disk or a missing permission: the words of the system say it best
        what = f"{error.strerror or name}: {error.filename}" if error.filename else what
        return what, None if debug else "--debug shows where"
    plugin = _guilty(error.__traceback__, plugins)
    where = f"plugin {plugin!r} failed: " if plugin else "unexpected failure: "
    hint = "--debug shows the traceback" if not debug else None
    if plugin:
        hint = f"{hint + '; ' if hint else ''}--no-plugin {plugin} runs without it"
    return where + what, hint


def _guilty(trace: TracebackType | None, plugins: Iterable[PluginStatus]) -> str | None:
    """Return the plugin in whose code the error arose: the innermost frame that lies in one."""
    homes = [(status.name, _home(status.file)) for status in plugins if status.file and status.name != "core"]
    for file in reversed(list(_files(trace))):
        for name, home in homes:
            if file == home or home in file.parents:
                return name
    return None


def _home(file: str | None) -> Path:
    path = Path(file or os.devnull)
    return path.parent if path.name == "__init__.py" else path


def _files(trace: TracebackType | None) -> Iterator[Path]:
    while trace is not None:
        yield Path(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
