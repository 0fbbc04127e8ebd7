from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from qcore.errors import QcoreError
from qcore.measure.bench import contest as room
from qcore.measure.bench import device as device_room
from qcore.measure.bench.bandwidth import Bandwidth
from qcore.measure.bench.contenders import Contender
from qcore.measure.bench.contest import Contest, torch_threads
from qcore.measure.bench.device import Device
from qcore.measure.bench.timing import Call, Clock

BASE = "torch fp32"
OUTPUT = torch.ones(2, 3)
CONTEST = Contest(
    subject="4 -> 3",
    batch=2,
    rounds=2,
    threads=2,
    cold=False,
    bandwidth=Bandwidth(1.0, "told", {}),
    operations=48,
    activation_nbytes=56,
)


def contender(
    name: str, kind: Any = "peer", call: Callable[[], object] = lambda: OUTPUT, nbytes: int = 48
) -> Contender:
    return Contender(kind=kind, call=call, again=lambda: call, weight_nbytes=nbytes, name=name)


BASIS = contender(BASE, "float")


@pytest.fixture(autouse=True)
def short_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    real = room.take_turns
    monkeypatch.setattr(room, "take_turns", lambda calls, **options: real(calls, **options, sample_s=1e-5))


def test_rows_hold_times_ratios_and_bytes() -> None:
    first, second = CONTEST.run([BASIS, contender("other")])
    assert (first.contender, first.ratio, first.ratio_low, first.ratio_high) == (BASE, 1.0, 1.0, 1.0)
    assert second.deviation == 0 and second.reason is None
    assert second.touched_nbytes == 48 + 56
    seconds = second.median_us / 1e6
    assert second.weight_gb_s == pytest.approx(48 / seconds / 1e9)
    assert second.bandwidth_share == second.weight_gb_s
    assert second.gop_s == pytest.approx(48 / seconds / 1e9)
    assert second.ratio_low <= second.ratio <= second.ratio_high


def fail() -> object:
    raise RuntimeError("no such kernel")


def test_a_peer_that_fails_or_computes_nonsense_is_left_out_with_the_reason() -> None:
    odd = contender("odd", call=lambda: OUTPUT * 1.5)
    rows = CONTEST.run([BASIS, contender("broken", call=fail), odd, contender("good")], [("absent", "not installed")])
    reasons = {row.contender: row.reason for row in rows}
    assert reasons[BASE] is None and reasons["good"] is None
    assert reasons["absent"] == "not installed"
    assert "no such kernel" in reasons["broken"]
    assert "50% off" in reasons["odd"]
    assert all(row.median_us is None for row in rows if row.reason)


def test_a_peer_is_compared_with_what_its_own_weights_give() -> None:
    rounded = replace(contender("rounded", call=lambda: OUTPUT * 1.5), expected=OUTPUT * 1.5)
    assert CONTEST.run([BASIS, rounded])[1].deviation == 0


def test_a_slow_peer_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SLOW_S", 0.0)
    monkeypatch.setattr(room, "SLOW_RATIO", 0.0)
    assert "too slow" in str(CONTEST.run([BASIS, contender("slow")])[1].reason)


def test_our_own_failure_is_an_error() -> None:
    with pytest.raises(QcoreError, match="no such kernel"):
        CONTEST.run([BASIS, contender("ours", "packed", fail)])


def test_our_own_wrong_output_is_an_error() -> None:
    for wrong in (OUTPUT * 1.5, OUTPUT * torch.nan, torch.ones(3)):
        ours = contender("ours", "packed", lambda wrong=wrong: wrong)  # type: ignore[misc]
        with pytest.raises(QcoreError, match="ours computes something else on 4 -> 3"):
            CONTEST.run([BASIS, ours])


def test_our_own_output_is_checked_against_the_right_one_and_told_against_the_float_one() -> None:
    coarse = contender("ours", "packed", lambda: OUTPUT * 1.5)
    assert CONTEST.run([BASIS, replace(coarse, right=OUTPUT * 1.5)])[1].deviation == pytest.approx(0.5)
    with pytest.raises(QcoreError, match="computes something else"):
        CONTEST.run([BASIS, replace(coarse, expected=OUTPUT * 1.5, right=OUTPUT)])


def test_cold_weights_take_turns_and_small_ones_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_room, "last_level_nbytes", lambda: 4800)
    monkeypatch.setattr(room, "MOST_COPIES", 200)
    rows = replace(CONTEST, cold=True).run([BASIS, contender("small", nbytes=1), contender("ours", "packed", nbytes=1)])
    assert rows[0].reason is None
    assert [row.contender for row in rows[1:]] == ["small", "ours"]
    assert all("too few to stream" in str(row.reason) for row in rows[1:])


@dataclass(frozen=True)
class PretendedGpu(Device):
    """The CPU, which takes itself for a GPU on which some calls can be captured."""

    capturable: tuple[Callable[[], object], ...] = ()

    @property
    def is_gpu(self) -> bool:
        return True

    def clock(self, threads: int) -> Clock:
        return time.perf_counter

    def synchronize(self) -> None:
        pass

    def cache_nbytes(self) -> int:
        return 100

    def captured(self, call: Call) -> Call | None:
        return (lambda: call()) if call in self.capturable else None


def gpu(*capturable: Callable[[], object]) -> Contest:
    return replace(CONTEST, device=PretendedGpu(torch.device("cpu"), torch.float32, capturable))


def test_on_a_gpu_calls_are_graphs_where_they_can_be_and_rows_say_so() -> None:
    eager, replaying = contender("eager", call=lambda: OUTPUT), contender("plan", "packed", lambda: OUTPUT)
    rows = gpu(BASIS.call).run([BASIS, eager, replace(replaying, captured=True)])
    assert [(row.contender, row.captured) for row in rows] == [(BASE, True), ("eager", False), ("plan", True)]
    assert [row.captured for row in CONTEST.run([BASIS, eager])] == [None, None]


def test_cold_weights_of_a_gpu_are_graphs_each() -> None:
    copies: list[Call] = []

    def again() -> Call:
        copies.append(lambda: OUTPUT)
        return copies[-1]

    (row,) = replace(gpu(BASIS.call), cold=True).run([replace(BASIS, again=again)])
    assert row.captured and len(copies) == -(-200 // 48) - 1


def test_a_peer_may_round_more_coarsely_than_the_contest_allows() -> None:
    coarse = contender("coarse", call=lambda: OUTPUT * 1.1)
    assert "10% off" in str(CONTEST.run([BASIS, coarse])[1].reason)
    assert CONTEST.run([BASIS, replace(coarse, tolerance=0.15)])[1].reason is None


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
