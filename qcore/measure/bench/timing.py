"""Times of several calls, taken in turns so that a busy moment of the machine hits all alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from qcore.errors import UsageError

__all__ = ["REST_S", "Call", "Clock", "Ratio", "clock_for", "compare", "take_turns"]

Call = Callable[[], object]
Clock = Callable[[], float]

SAMPLE_S = 0.01
"""Seconds that one sample lasts at least: a short call is repeated, so that reading the clock does not count."""

REST_S = 0.02
"""Seconds after which threads that spin for work have gone to sleep."""

_MOST_REPEATS = 1_000_000


@dataclass(frozen=True)
class Ratio:
    """How much faster one contender is than another, from the rounds they shared; above 1 is faster.

    Attributes:
        median: of the ratios round by round.
        low, high: their quartiles.
    """

    median: float
    low: float
    high: float


def clock_for(threads: int) -> Clock:
    """Return the process's CPU time for one thread, which a neighbour disturbs least; wall time for several."""
    return time.process_time if threads == 1 else time.perf_counter


def take_turns(
    calls: Mapping[str, Call],
    *,
    rounds: int,
    clock: Clock = time.perf_counter,
    sample_s: float = SAMPLE_S,
    rest_s: float = 0.0,
) -> dict[str, list[float]]:
    """Return the seconds of one call, a number a round, of each of ``calls`` in the order A B C A B C ...

    Args:
        calls: the contenders by name.
        rounds: turns of each.
        clock: seconds.
        sample_s: how long a turn lasts at least.
        rest_s: pause before each turn, in which threads that the last contender left spinning go to sleep.

    Raises:
        UsageError: fewer than two rounds have no spread.
    """
    if rounds < 2:
        raise UsageError(f"a benchmark takes at least 2 rounds, got {rounds}", "say --rounds 2 or more")
    repeats = {name: _repeats(call, clock, sample_s) for name, call in calls.items()}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            time.sleep(rest_s)
            if repeats[name] > 1:
                call()  # finds its weights where the last contender left them, not where its own next calls do
            times[name].append(_sample(call, repeats[name], clock) / repeats[name])
    return times


def compare(base: list[float], times: list[float]) -> Ratio:
    """Return how much faster ``times`` are than ``base``; both from :func:`take_turns`, round by round."""
    ratios = [before / max(after, 1e-12) for before, after in zip(base, times, strict=True)]
    low, median, high = (float(value) for value in np.percentile(ratios, [25, 50, 75]))
    return Ratio(median, low, high)


def _repeats(call: Call, clock: Clock, sample_s: float) -> int:
    """Return how many calls last at least ``sample_s``."""
    call()
    repeats = 1
    while True:
        elapsed = _sample(call, repeats, clock)
        if elapsed >= sample_s or repeats >= _MOST_REPEATS:
            return repeats
        growth = min(10.0, 1.1 * sample_s / elapsed) if elapsed > 0 else 10.0
        repeats = min(_MOST_REPEATS, max(repeats + 1, math.ceil(repeats * growth)))


def _sample(call: Call, repeats: int, clock: Clock) -> float:
    start = clock()
    for _ in range(repeats):
        call()
    return clock() - start
