from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qcore.errors import QcoreError
from qcore.runs import Job, Run

Start = Callable[..., Run]
Script = Callable[..., subprocess.Popen[str]]


def wait_for(check: Callable[[], Any], seconds: float = 90.0) -> Any:
    """Return what ``check`` returns once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError("it never came")


def children(pid: int) -> list[int]:
    """Return the processes below ``pid`` that live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def is_worker(pid: int) -> bool:
    try:
        return "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_processes_give_the_files_that_one_process_gives_and_need_no_main_guard(
    tiny: Start, script: Script, plugin: Path, tmp_path: Path, without_times: Callable[[Any], Any]
) -> None:
    many = script(plugin, tmp_path / "many", workers=2)
    errors = many.communicate(timeout=120)[1]
    assert many.returncode == 0, errors
    one, two = tiny(str(plugin)), Run(tmp_path / "many")
    assert without_times(one.summary) == without_times(two.summary)
    for job in one.jobs():
        first, second = one.result(job), two.result(job)
        assert first is not None and second is not None
        assert first["files"] == second["files"], "weights, samples and history are the same bytes"


@pytest.mark.slow
def test_a_worker_that_dies_is_a_clear_error_and_a_failed_run(tiny: Start, plugin: Path, tmp_path: Path) -> None:
    settings = {"epochs": 2, "hidden": [8], "trouble": "die@again"}
    with pytest.raises(QcoreError, match=r"a worker process died during .*arm again"):
        tiny(str(plugin), settings=settings, workers=2)
    assert Run(tmp_path / "run").status == "failed"


@pytest.mark.slow
def test_a_job_that_fails_in_a_worker_is_named_and_others_stand(tiny: Start, plugin: Path, tmp_path: Path) -> None:
    settings = {"epochs": 2, "hidden": [8], "trouble": "raise@again"}
    with pytest.raises(QcoreError, match=r"arm again, fold \d, seed 0: ZeroDivisionError"):
        tiny(str(plugin), settings=settings, workers=2)
    run = Run(tmp_path / "run")
    assert run.status == "failed"
    assert run.result(Job(0, 0, "float")) is not None or run.result(Job(0, 1, "float")) is not None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_ctrl_c_stops_the_workers_and_the_run_says_interrupted(script: Script, plugin: Path, tmp_path: Path) -> None:
    process = script(plugin, tmp_path / "run", workers=2, trouble="sleep@twin")
    wait_for(lambda: (tmp_path / "run" / "float" / "fold-0" / "result.json").is_file())
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    run = Run(tmp_path / "run")
    assert run.status == run.record["status"] == "interrupted"
    assert run.results()
    wait_for(lambda: not any(map(lives, workers)), 20.0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_ctrl_c_does_not_reach_a_worker_that_is_only_starting(script: Script, plugin: Path, tmp_path: Path) -> None:
    process = script(plugin, tmp_path / "run", workers=2)
    met: set[int] = set()
    while process.poll() is None:
        for pid in filter(is_worker, children(process.pid)):
            os.kill(pid, signal.SIGINT)
            met.add(pid)
        time.sleep(0.05)
    errors = process.communicate()[1]
    assert (process.returncode, errors) == (0, "")
    assert len(met) == 2


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
def test_workers_die_with_a_killed_parent(script: Script, plugin: Path, tmp_path: Path) -> None:
    process = script(plugin, tmp_path / "run", workers=2, trouble="sleep@twin")
    wait_for(lambda: (tmp_path / "run" / "float" / "fold-0" / "result.json").is_file())
    workers = children(process.pid)
    assert workers
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for(lambda: not any(map(lives, workers)), 20.0)
