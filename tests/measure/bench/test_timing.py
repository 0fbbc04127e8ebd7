from __future__ import annotations

import time

import pytest

from qcore.errors import UsageError
from qcore.measure.bench.timing import clock_for, compare, take_turns


class Machine:
    """Time that passes only when a call says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def clock(self) -> float:
        return self.now

    def call(self, name: str, seconds: float):
        def run() -> None:
            self.now += seconds
            self.order.append(name)

        return run


def test_contenders_take_turns_and_short_calls_are_repeated_until_a_sample_is_long_enough() -> None:
    machine = Machine()
    calls = {"long": machine.call("long", 0.5), "short": machine.call("short", 0.002)}
    times = take_turns(calls, rounds=3, clock=machine.clock, sample_s=0.01)
    assert times["long"] == pytest.approx([0.5] * 3)
    assert times["short"] == pytest.approx([0.002] * 3)
    turns = "".join(name[0] for name in machine.order)
    repeats = len(turns.rpartition("l")[2]) - 1  # the first call of a sample is not timed
    assert repeats * 0.002 >= 0.01
    assert turns.endswith(3 * ("l" + "s" * (repeats + 1)))


def test_a_call_that_takes_no_time_ends() -> None:
    machine = Machine()
    times = take_turns({"none": lambda: None, "some": machine.call("some", 1.0)}, rounds=2, clock=machine.clock)
    assert times["none"] == [0.0, 0.0]


def test_fewer_than_two_rounds_are_refused() -> None:
    with pytest.raises(UsageError):
        take_turns({}, rounds=1)


def test_the_ratio_is_that_of_the_rounds_with_its_quartiles() -> None:
    found = compare([4.0, 4.0, 4.0, 8.0, 8.0], [1.0, 2.0, 4.0, 4.0, 2.0])
    assert (found.low, found.median, found.high) == (2.0, 2.0, 4.0)


def test_one_thread_is_timed_by_the_processor_and_several_by_the_wall() -> None:
    assert clock_for(1) is time.process_time
    assert clock_for(2) is time.perf_counter
