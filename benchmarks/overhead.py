"""From Python into a kernel and back: a tiny packed layer, where nothing but the way counts; one thread."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from common import write
from torch.nn import functional

from qcore.measure.bench.contenders import pack_weight
from qcore.measure.bench.contest import torch_threads
from qcore.measure.bench.plan import Weight
from qcore.measure.bench.timing import clock_for, compare, take_turns
from qcore.nn.init import linear

COLS, ROWS, ROUNDS = 64, 16, 40


def main() -> None:
    layer = linear(COLS, ROWS, torch.Generator().manual_seed(0)).eval().requires_grad_(False)
    x = torch.randn(1, COLS, generator=torch.Generator().manual_seed(1))
    packed = {name: pack_weight(layer, weight) for name, weight in (("ternary", Weight(None)), ("4 bit", Weight(4)))}
    kernel: Any = packed["4 bit"].choice.kernel.call
    calls = {
        "F.linear": lambda: functional.linear(x, layer.weight, layer.bias),
        "nn.Linear": lambda: layer(x),
        "packed, ternary": lambda: packed["ternary"](x),
        "packed, 4 bit": lambda: packed["4 bit"](x),
        "kernel alone, 4 bit": lambda: kernel(x),
        "nothing": lambda: None,
    }
    with torch_threads(1), torch.inference_mode():
        times = take_turns(calls, rounds=ROUNDS, clock=clock_for(1))
    rows = {}
    lines = [f"{COLS} -> {ROWS}, batch 1, one thread, CPU time, {ROUNDS} interleaved rounds.", ""]
    lines += ["| call | median us | x F.linear (quartiles) |", "|---|---:|---:|"]
    for name, taken in times.items():
        found = compare(times["F.linear"], taken)
        rows[name] = {"median_us": 1e6 * statistics.median(taken), "ratio": found.median, "low": found.low}
        rows[name]["high"] = found.high
        ratio = f"{found.median:.2f} ({found.low:.2f}-{found.high:.2f})"
        lines.append(f"| {name} | {rows[name]['median_us']:.2f} | {ratio} |")
    choice = packed["4 bit"].choice
    lines += ["", f"Kernel: {choice.backend}, {choice.kernel.name}. x F.linear: above 1 is faster."]
    write("overhead", "python benchmarks/overhead.py", {"calls": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
