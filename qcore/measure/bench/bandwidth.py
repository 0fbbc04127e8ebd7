"""How fast a device reads its memory: what a layer's weights could stream at best."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from qcore.measure.bench.device import CPU, Device
from qcore.measure.bench.timing import Call, Clock

__all__ = ["Bandwidth", "read_bandwidth"]

_TIMES_CACHE = 6
"""The buffer is so many times the last-level cache: what of it stays cached between two readings is then little."""


@dataclass(frozen=True)
class Bandwidth:
    """Read bandwidth.

    Attributes:
        gb_s: 10^9 bytes a second, the best of all readings.
        how: what read the buffer, and its bytes.
        each: the best of each way that was tried, in GB/s.
    """

    gb_s: float
    how: str
    each: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def read_bandwidth(clock: Clock, *, nbytes: int | None = None, rounds: int = 40, device: Device = CPU) -> Bandwidth:
    """Read a buffer of ``nbytes`` (several times the last-level cache) in several ways, and return the fastest.

    One reduction of one library may not reach what the memory gives, so three are tried in turns; all of them read each
    number once and write next to nothing. As many threads as torch uses now take part.
    """
    size = nbytes or _TIMES_CACHE * device.cache_nbytes()
    buffer = torch.ones(max(1, size // 4), device=device.device)
    ways: dict[str, Call] = {
        "torch.sum": buffer.sum,
        "torch.amax": buffer.amax,
        "torch.dot": lambda: torch.dot(buffer, buffer),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, call in ways.items():
            start = clock()
            call()
            seconds[name].append(clock() - start)
    read = 4 * buffer.numel()
    each = {name: read / max(min(times[1:]), 1e-9) / 1e9 for name, times in seconds.items()}
    best = max(each, key=each.__getitem__)
    return Bandwidth(each[best], f"{best} over {read / 2**20:.0f} MiB of float32, the best of {rounds}", each)
