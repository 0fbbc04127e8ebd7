"""Latency beside a busy neighbour: two threads, alone and while another process spins on one of their cores.

The neighbour is stopped and continued in turns, so that both conditions see the same machine.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from common import write

from qcore.measure.bench.contenders import pack_weight
from qcore.measure.bench.contest import torch_threads
from qcore.measure.bench.machine import machine_facts
from qcore.measure.bench.plan import Shape, Weight
from qcore.nn.init import linear

THREADS, CALLS, BLOCK, MOST_S = 2, 600, 20, 12.0
SHAPES, BATCHES = (Shape(1536, 640), Shape(4096, 4096)), (1, 64)
WEIGHTS = (Weight(None), Weight(4), Weight(8))
CONDITIONS = ("alone", "beside a neighbour")
SPIN = """
import os
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
while True:
    pass
"""

Call = Callable[[], object]
Times = dict[tuple[str, str], list[float]]


@contextmanager
def neighbour() -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that spins on the first of our cores; it starts stopped."""
    with subprocess.Popen([sys.executable, "-c", SPIN]) as process:
        try:
            time.sleep(0.5)
            process.send_signal(signal.SIGSTOP)
            yield process
        finally:
            process.kill()


def measure(calls: Mapping[str, Call], process: subprocess.Popen[bytes]) -> Times:
    """Return the seconds of each call, by condition and contender: blocks of calls, the contenders in turns."""
    times: Times = {(condition, name): [] for condition in CONDITIONS for name in calls}
    for call in calls.values():
        call()
    began, order = time.perf_counter(), random.Random(0)
    while len(next(iter(times.values()))) < CALLS and time.perf_counter() - began < MOST_S:
        for condition in CONDITIONS:
            process.send_signal(signal.SIGSTOP if condition == "alone" else signal.SIGCONT)
            time.sleep(0.01)
            for _ in range(BLOCK):
                for name in order.sample(sorted(calls), len(calls)):  # who comes after whom varies
                    call = calls[name]
                    start = time.perf_counter()
                    call()
                    times[condition, name].append(time.perf_counter() - start)
    process.send_signal(signal.SIGSTOP)
    return times


def contenders(shape: Shape, batch: int) -> dict[str, Call]:
    """Return torch fp32 and our layers on one input."""
    layer = linear(shape.cols, shape.rows, torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    x = torch.randn(batch, shape.cols, generator=torch.Generator().manual_seed(1))
    modules = {"torch fp32": layer, **{str(weight): pack_weight(layer, weight) for weight in WEIGHTS}}

    def call_of(module: torch.nn.Module) -> Call:
        return lambda: module(x)

    return {name: call_of(module) for name, module in modules.items()}


def summary(seconds: list[float]) -> dict[str, float]:
    """Return percentiles in microseconds."""
    taken = 1e6 * np.asarray(seconds)
    p50, p90, p99 = np.percentile(taken, [50, 90, 99])
    return {"p50": float(p50), "p90": float(p90), "p99": float(p99), "max": float(taken.max()), "calls": len(taken)}


def main() -> None:
    rows, load = [], machine_facts()["load"]
    lines = [f"{THREADS} threads, wall time of single calls in microseconds, contenders and conditions in turns."]
    lines += [f"Load before the start, of processes other than the neighbour: {load}.", ""]
    lines += [
        "| layer | batch | condition | contender | p50 | p90 | p99 | max | calls |",
        "|---|---:|---|---|" + "---:|" * 5,
    ]
    with torch_threads(THREADS), torch.inference_mode(), neighbour() as process:
        for shape in SHAPES:
            for batch in BATCHES:
                for (condition, name), seconds in measure(contenders(shape, batch), process).items():
                    found = summary(seconds)
                    rows.append(
                        {"layer": str(shape), "batch": batch, "condition": condition, "contender": name, **found}
                    )
                    figures = " | ".join(f"{found[key]:.0f}" for key in ("p50", "p90", "p99", "max", "calls"))
                    lines.append(f"| {shape} | {batch} | {condition} | {name} | {figures} |")
    write(
        "neighbour",
        "python benchmarks/neighbour.py",
        {"threads": THREADS, "load": load, "rows": rows},
        "\n".join(lines),
    )


if __name__ == "__main__":
    main()
