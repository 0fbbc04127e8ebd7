from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from qcore.measure.bench.bandwidth import read_bandwidth


def clock_of(seconds: Sequence[Sequence[float]]) -> Iterator[float]:
    """Yield the clock before and after each reading; each round has the seconds of all ways in their order."""
    now = 0.0
    for taken in seconds:
        for each in taken:
            yield now
            now += each
            yield now


def test_each_way_counts_by_its_best_reading_and_the_fastest_way_is_reported() -> None:
    first = (2**-20, 2**-20, 2**-20)  # not counted: it may still build something
    rounds = (first, (2.0, 0.5, 4.0), (1.0, 8.0, 4.0))
    clock = clock_of(rounds)
    found = read_bandwidth(lambda: next(clock), nbytes=1 << 20, rounds=2)
    gb = 2**20 / 1e9
    assert found.each == pytest.approx({"torch.sum": gb, "torch.amax": 2 * gb, "torch.dot": gb / 4})
    assert found.gb_s == pytest.approx(2 * gb)
    assert found.how == "torch.amax over 1 MiB of float32, the best of 2"
    assert found.as_dict() == {"gb_s": found.gb_s, "how": found.how, "each": found.each}
    with pytest.raises(StopIteration):
        next(clock)  # each way was read in each round
