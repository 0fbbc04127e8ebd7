from __future__ import annotations

import os
import subprocess
import sys

from qcore.runs.process import is_alive, this_process


def test_this_process_lives() -> None:
    assert is_alive(this_process())


def test_a_process_that_ended_does_not() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not is_alive({**this_process(), "pid": ended.pid})


def test_a_later_process_with_the_same_pid_is_another_one() -> None:
    record = this_process()
    if record["process_start"] is not None:
        assert not is_alive({**record, "process_start": record["process_start"] - 1})


def test_nothing_is_known_of_another_host_so_its_process_may_live() -> None:
    assert is_alive({**this_process(), "host": "elsewhere", "pid": os.getpid() + 1})
