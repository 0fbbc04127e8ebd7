"""Where a benchmark runs: on a CPU, or on a GPU whose calls are captured as graphs and timed by its own events."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from qcore.errors import UsageError
from qcore.foreign import ForeignError, guarded
from qcore.measure.bench.machine import last_level_nbytes
from qcore.measure.bench.timing import Call, Clock, clock_for

__all__ = ["CPU", "Device", "EventClock"]

NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}

_WARM_UPS = 3


@dataclass(frozen=True)
class Device:
    """What contenders run on.

    Attributes:
        device: of all tensors.
        dtype: of the float layer that all are compared with, and of its inputs: what its users would take there.
    """

    device: torch.device
    dtype: torch.dtype

    @classmethod
    def named(cls, name: str) -> Device:
        """Return the device called ``name``: ``cpu``, ``cuda`` or ``cuda:1``.

        Raises:
            UsageError: it is not here, or no benchmark runs there.
        """
        kind, _, number = name.partition(":")
        if name == "cpu":
            return CPU
        if kind != "cuda" or not (number or "0").isdecimal():
            raise UsageError(f"--device {name}: benchmarks run on cpu and cuda", "say cpu, cuda or cuda:1")
        index, count = int(number or 0), torch.cuda.device_count()
        if index >= count:
            raise UsageError(f"--device {name}: torch sees {count} GPUs", "qcore doctor tells more")
        return cls(torch.device("cuda", index), torch.bfloat16)

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.device.type == "cuda"

    @property
    def base(self) -> str:
        """The name of the float layer that all are compared with."""
        return f"torch {NAMES[self.dtype]}"

    def clock(self, threads: int) -> Clock:
        """Return the clock for so many threads; on a GPU that of its events."""
        return EventClock(self.device) if self.is_gpu else clock_for(threads)

    def clock_name(self, threads: int) -> str:
        """Return what the clock is called."""
        if self.is_gpu:
            return "CUDA events"
        return "CPU time of the process" if threads == 1 else "wall time"

    def cache_nbytes(self) -> int:
        """Return the bytes of the last-level cache."""
        if self.is_gpu:
            return int(torch.cuda.get_device_properties(self.device).L2_cache_size)
        return last_level_nbytes()

    def synchronize(self) -> None:
        """Wait until the device has done what it was asked for."""
        if self.is_gpu:
            torch.cuda.synchronize(self.device)

    def captured(self, call: Call) -> Call | None:
        """Return ``call`` as a CUDA graph; None where it cannot be one, or on a CPU."""
        if not self.is_gpu:
            return None
        try:
            return guarded("capture", lambda: self._capture(call))
        except ForeignError:
            self.synchronize()
            return None

    def facts(self) -> dict[str, Any]:
        """Return name, cache and CUDA version of a GPU; nothing of a CPU."""
        if not self.is_gpu:
            return {}
        found = torch.cuda.get_device_properties(self.device)
        return {
            "name": found.name,
            "capability": f"{found.major}.{found.minor}",
            "l2_nbytes": self.cache_nbytes(),
            "memory_nbytes": found.total_memory,
            "cuda": torch.version.cuda,
        }

    def _capture(self, call: Call) -> Call:
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):  # kernels are compiled, and libraries take their workspaces
                call()
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            call()
        return partial(_replay, graph, call)


CPU = Device(torch.device("cpu"), torch.float32)


class EventClock:
    """Seconds on a GPU's own clock, each told when all that was asked of it before is done."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._seconds = device, 0.0
        self._last = self._mark()

    def __call__(self) -> float:
        """Return the seconds since the clock was made."""
        now = self._mark()
        self._seconds += self._last.elapsed_time(now) / 1e3
        self._last = now
        return self._seconds

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        event.synchronize()
        return event


def _replay(graph: torch.cuda.CUDAGraph, call: Call) -> None:
    """Replay a graph; ``call`` keeps alive what it reads."""
    graph.replay()
