"""What the benchmarks share: interleaved timing, the machine's description, and result files."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

__all__ = ["RESULTS", "interleaved", "machine", "ratio", "write"]

RESULTS = Path(__file__).parent / "results"


def interleaved(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 3
) -> dict[str, list[float]]:
    """Call the contenders in turn (A B A B ...) and return the seconds of each call."""
    for _ in range(warmup):
        for call in contenders.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def ratio(times: list[float], base: list[float]) -> dict[str, float]:
    """Return the median of ``times`` over the median of ``base``, and the quartiles of the ratio round by round."""
    pairs = sorted(a / b for a, b in zip(times, base, strict=True))
    low, _, high = statistics.quantiles(pairs, n=4)
    return {"ratio": statistics.median(times) / statistics.median(base), "low": low, "high": high}


def machine() -> dict[str, Any]:
    """Describe where a benchmark ran."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "qcore": version("qcore-ml"),
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write(name: str, command: str, data: Mapping[str, Any], table: str) -> None:
    """Write ``results/NAME.json`` and ``results/NAME.md``; the command that made them stands in both."""
    RESULTS.mkdir(exist_ok=True)
    content = {"command": command, "machine": machine(), **data}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    where = ", ".join(f"{key} {value}" for key, value in machine().items())
    (RESULTS / f"{name}.md").write_text(f"# {name}\n\n`{command}`\n\n{where}\n\n{table.rstrip()}\n")
