"""Progress of a run on stderr: live on a terminal, one plain line a finished job elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from qcore.cli.console import is_live, make_console, say

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import RenderableType

__all__ = ["LiveProgress", "PlainProgress", "RunProgress", "SilentProgress", "make_progress", "time_text"]

Event = Mapping[str, Any]
Clock = Callable[[], float]


class RunProgress(Protocol):
    """Takes the events of a run, while the context lasts."""

    def __enter__(self) -> RunProgress: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def __call__(self, event: Event) -> None:
        """Show ``event``."""


def make_progress(*, quiet: bool) -> RunProgress:
    """Return the progress that fits stderr."""
    if quiet:
        return SilentProgress()
    return LiveProgress() if is_live(sys.stderr) else PlainProgress()


def time_text(seconds: float) -> str:
    """Return a duration for reading."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class SilentProgress:
    """Says nothing."""

    def __enter__(self) -> SilentProgress:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None: ...

    def __call__(self, event: Event) -> None:
        """Ignore ``event``."""


class _Tally:
    """Counts jobs and guesses the time left from those that finished in this session."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.started = clock()
        self.done = self.before = self.total = 0

    def take(self, event: Event) -> None:
        if event["kind"] == "run_started":
            self.started, self.before = self.clock(), int(event.get("done") or 0)
        self.done = int(event.get("done", self.done) or 0)
        self.total = int(event.get("total", self.total) or 0)

    @property
    def left_s(self) -> float | None:
        """Seconds left, or None before the first job is finished."""
        fresh = self.done - self.before
        return (self.clock() - self.started) / fresh * (self.total - self.done) if fresh > 0 else None


class PlainProgress:
    """Lines of plain text, for logs."""

    def __init__(self, clock: Clock = time.monotonic, write: Callable[[str], None] = say) -> None:
        self._tally = _Tally(clock)
        self._write = write

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None: ...

    def __call__(self, event: Event) -> None:
        """Write a line for an event that deserves one."""
        self._tally.take(event)
        kind = event["kind"]
        if kind == "run_started":
            self._write(f"{event.get('total')} jobs" + (f", {event['done']} done before" if event.get("done") else ""))
        elif kind == "job_finished":
            left = self._tally.left_s
            score = _score(event)
            self._write(
                f"{self._tally.done}/{self._tally.total} {_job(event)}{': ' + score if score else ''}"
                + (f", {time_text(left)} left" if left else "")
            )
        elif kind == "warning":
            self._write(f"warning: {event.get('message')}")


class LiveProgress:
    """A bar for the run and a line for each job that is training."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._tally = _Tally(clock)
        self._jobs: dict[str, Event] = {}
        self._finished: set[str] = set()
        self._left = TextColumn("{task.fields[left]}", style="dim")
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), self._left)
        self._task = self._bar.add_task("run", total=None, left="")
        self._live = Live(
            get_renderable=self._render, console=make_console(sys.stderr), transient=True, refresh_per_second=4
        )

    def __enter__(self) -> LiveProgress:
        self._live.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show ``event``."""
        self._tally.take(event)
        name = event["kind"]
        if name in ("job_started", "epoch") and _job(event) not in self._finished:
            self._jobs[_job(event)] = event
        elif name == "job_finished":
            self._finished.add(_job(event))  # events of several processes may come late
            self._jobs.pop(_job(event), None)
            self._live.console.print(f"{_job(event)}: {_score(event)}", style="dim")
        elif name == "warning":
            self._live.console.print(f"warning: {event.get('message')}", style="yellow")
        if self._tally.total and self._tally.done == self._tally.total:
            self._bar.update(self._task, description="measuring")
        left = self._tally.left_s
        remaining = f"{time_text(left)} left" if left else ""
        self._bar.update(self._task, completed=self._tally.done, total=self._tally.total or None, left=remaining)

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.table import Table

        rows = Table.grid(padding=(0, 2))
        for event in list(self._jobs.values()):
            rows.add_row(f"  {event.get('arm')}", _place(event), _epoch(event), _score(event))
        return Group(self._bar, rows)


def _job(event: Event) -> str:
    return f"{event.get('arm')} {_place(event)}"


def _place(event: Event) -> str:
    seed = event.get("seed")
    return f"fold {event.get('fold')}" + (f" seed {seed}" if seed is not None else "")


def _epoch(event: Event) -> str:
    if event.get("epoch") is None:
        return "starting"
    return f"{event.get('phase')} epoch {event['epoch']}" + (f"/{event['epochs']}" if event.get("epochs") else "")


def _score(event: Event) -> str:
    value = event.get("value")
    return "" if value is None else f"{event.get('metric') or 'score'} {value:.4f}"
