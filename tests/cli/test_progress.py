"""Progress: a line a job in a log, a live picture on a terminal."""

from __future__ import annotations

import io
import sys

from qcore.cli.progress import LiveProgress, PlainProgress, SilentProgress, make_progress, time_text

JOB = {"arm": "float", "fold": 0, "seed": 0}
EPOCH = {**JOB, "kind": "epoch", "phase": "train", "epoch": 3, "epochs": 40, "metric": "f1", "value": 0.5, "done": 0}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def follow(progress, clock: Clock) -> None:
    """Play a run of three jobs, one of which was done before, ten seconds each."""
    progress({"kind": "run_started", "done": 1, "total": 3})
    progress({**JOB, "kind": "job_started", "done": 1, "total": 3})
    progress({**EPOCH, "done": 1, "total": 3})
    clock.now = 10.0
    progress({**JOB, "kind": "job_finished", "metric": "f1", "value": 0.75, "done": 2, "total": 3})


def test_a_log_gets_one_line_a_finished_job_with_its_score_and_the_time_left():
    clock, lines = Clock(), []
    follow(PlainProgress(clock, lines.append), clock)
    assert lines == ["3 jobs, 1 done before", "2/3 float fold 0 seed 0: f1 0.7500, 10 s left"]


def test_the_last_job_leaves_no_time_and_warnings_are_passed_on():
    clock, lines = Clock(), []
    progress = PlainProgress(clock, lines.append)
    progress({"kind": "run_started", "done": 0, "total": 1})
    progress({"kind": "warning", "message": "expert 2 is never reached", "done": 0, "total": 1})
    progress({**JOB, "kind": "job_finished", "metric": "f1", "value": None, "done": 1, "total": 1})
    assert lines == ["1 jobs", "warning: expert 2 is never reached", "1/1 float fold 0 seed 0"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_what_each_job_does(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    clock = Clock()
    with LiveProgress(clock) as progress:
        progress({"kind": "run_started", "done": 0, "total": 3})
        progress({**EPOCH, "done": 0, "total": 3})
        progress._live.refresh()
        clock.now = 5.0
        progress({**JOB, "kind": "job_finished", "metric": "f1", "value": 0.75, "done": 1, "total": 3})
        progress({**EPOCH, "epoch": 4, "done": 1, "total": 3})
        progress._live.refresh()
    text = terminal.getvalue()
    assert "epoch 4/40" not in text  # an event that came after its job had finished
    for part in ("train epoch 3/40", "f1 0.5000", "0/3", "1/3", "10 s left", "f1 0.7500"):
        assert part in text


def test_progress_fits_where_it_is_written(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(make_progress(quiet=True), SilentProgress)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert isinstance(make_progress(quiet=False), PlainProgress)
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(make_progress(quiet=False), LiveProgress)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(make_progress(quiet=False), PlainProgress)


def test_times_are_readable():
    assert [time_text(s) for s in (0.4, 59, 60, 3725)] == ["0 s", "59 s", "1 min 00 s", "1 h 02 min"]
