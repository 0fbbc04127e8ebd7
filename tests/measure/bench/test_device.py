from __future__ import annotations

import time

import pytest
import torch

from qcore.errors import UsageError
from qcore.measure.bench.device import CPU, Device, EventClock
from qcore.measure.bench.machine import last_level_nbytes

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")


def test_the_cpu_is_timed_in_float32_and_captures_nothing() -> None:
    assert Device.named("cpu") is CPU
    assert (CPU.base, CPU.is_gpu, CPU.facts(), CPU.captured(lambda: None)) == ("torch fp32", False, {}, None)
    assert CPU.clock(1) is time.process_time and CPU.clock(2) is time.perf_counter
    assert CPU.cache_nbytes() == last_level_nbytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [("gpu", "cpu and cuda"), ("cuda:one", "cpu and cuda"), ("cuda:999", "sees . GPUs")],
)
def test_a_device_that_is_not_here_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Device.named(name)


def test_a_gpu_s_clock_adds_up_what_its_events_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time from the mark before: single-precision milliseconds since a far start would be too coarse."""
    marks = iter((0.0, 1000.0, 1000.5, 4000.0))
    waited: list[float] = []

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            assert enable_timing

        def record(self, stream: object) -> None:
            self.at = next(marks)

        def synchronize(self) -> None:
            waited.append(self.at)

        def elapsed_time(self, other: Event) -> float:
            return other.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    clock = EventClock(torch.device("cuda"))
    assert [clock(), clock(), clock()] == pytest.approx([1.0, 1.0005, 4.0])
    assert waited == [0.0, 1000.0, 1000.5, 4000.0]


@GPU
def test_a_gpu_captures_calls_and_leaves_those_that_wait_eager() -> None:
    device = Device.named("cuda")
    x = torch.ones(1 << 20, device=device.device)
    graph = device.captured(lambda: x.add_(1))
    assert graph is not None
    before = float(x[0])
    graph()
    assert float(x[0]) == before + 1
    assert device.captured(lambda: x.sum().item()) is None
    assert float((x + 1)[0]) == before + 2
    clock = device.clock(1)
    first = clock()
    for _ in range(100):
        graph()
    assert 0 < clock() - first < 1
    assert device.facts()["l2_nbytes"] == device.cache_nbytes() > 0
