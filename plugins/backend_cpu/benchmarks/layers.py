"""Packed linear layers against torch fp32 and the peers that are installed: interleaved, medians, ratios with spread.

``python benchmarks/layers.py [--threads 1] [--batches 1,8,64,256] [--shapes 2560x6912,...] [--rounds 15]`` prints a
table and writes ``results/layers.md``. With one thread the times are process CPU time, which a busy neighbour disturbs
least; else wall time. GB/s counts the packed weight's bytes once a call.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn

from qcore.tensor import QTensor
from qcore_backend_cpu.backend import CpuBackend
from qcore_backend_cpu.testing import TOKENS, make_request, make_weight

SHAPES = "2560x6912,4096x4096,1536x640,640x320"
WIDTHS = {"1 bit": ("odd", 1), "ternary": ("ternary", 2), "4 bit": ("int", 4), "8 bit": ("int", 8)}
ROUND_S = 0.02
SLOWEST_S = 0.3

Call = Callable[[], object]


def ours(cols: int, rows: int, x: Tensor) -> dict[str, tuple[Call, int]]:
    """Return our layers of every width, with the bytes of their weights."""
    found: dict[str, tuple[Call, int]] = {}
    for name, width in WIDTHS.items():
        weight = make_weight(*width, (rows, cols))
        kernel = CpuBackend().prepare(make_request(weight, TOKENS), QTensor.pack(weight), torch.zeros(rows))
        found[name] = (lambda kernel=kernel: kernel.call(x)), kernel.nbytes
    grouped = make_weight("int", 4, (rows, cols), group_size=128)
    kernel = CpuBackend().prepare(make_request(grouped, TOKENS), QTensor.pack(grouped), torch.zeros(rows))
    found["4 bit, groups of 128"] = (lambda: kernel.call(x)), kernel.nbytes
    weight = make_weight("int", 4, (rows, cols))
    floats = CpuBackend().prepare(make_request(weight, None), QTensor.pack(weight), torch.zeros(rows))
    found["4 bit, float activations"] = (lambda: floats.call(x)), floats.nbytes
    return found


def peers(linear: nn.Linear, x: Tensor) -> dict[str, tuple[Call, int]]:
    """Return torch's own int8 products; each is left out where this build of torch lacks it."""
    found: dict[str, tuple[Call, int]] = {}
    nbytes = linear.weight.numel()
    codes = torch.randint(-127, 127, x.shape, dtype=torch.int8)
    weight = torch.randint(-127, 127, linear.weight.shape, dtype=torch.int8).t().contiguous()
    candidates: dict[str, Call] = {"torch _int_mm (codes only)": lambda: torch._int_mm(codes, weight)}
    try:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dynamic = torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), {nn.Linear})
        candidates["torch dynamic int8"] = lambda: dynamic(x)
    except (AttributeError, RuntimeError):
        pass
    for name, call in candidates.items():
        try:
            start = time.perf_counter()
            call()
        except (AttributeError, RuntimeError):
            continue
        if time.perf_counter() - start < SLOWEST_S:  # _int_mm without VNNI instructions takes its time
            found[name] = call, nbytes
    return found


def measure(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Return seconds a call, one number a round; the contenders take turns."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, int(ROUND_S / max(time.perf_counter() - start, 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = clock()
            for _ in range(repeats[name]):
                call()
            times[name].append((clock() - start) / repeats[name])
    return times


def table(shape: tuple[int, int], batch: int, rounds: int) -> list[str]:
    """Return the rows of one layer and batch."""
    cols, rows = shape
    linear, x = nn.Linear(cols, rows), torch.randn(batch, cols)
    contenders = (
        {"torch fp32": ((lambda: linear(x)), linear.weight.numel() * 4)} | ours(cols, rows, x) | peers(linear, x)
    )
    with torch.inference_mode():
        times = measure({name: call for name, (call, _) in contenders.items()}, rounds)
    base, lines = times["torch fp32"], []
    for name, values in times.items():
        median = statistics.median(values)
        ratios = sorted(a / b for a, b in zip(base, values, strict=True))
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        ratio = statistics.median(base) / median
        lines.append(
            f"| {cols} -> {rows} | {batch} | {name} | {median * 1e6:.0f} | {ratio:.2f} ({low:.2f}-{high:.2f}) "
            f"| {contenders[name][1] / median / 1e9:.1f} | {2 * batch * cols * rows / median / 1e9:.0f} |"
        )
    return lines


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batches", default="1,8,64,256")
    parser.add_argument("--shapes", default=SHAPES)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    details = CpuBackend().probe().details
    lines = [
        "# Packed linear layers over torch fp32",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, torch {torch.__version__}, {details['isa']}, {options.threads} thread(s).",
        "Ratio: above 1 is faster than torch fp32; the quartiles of the rounds in brackets.",
        "",
        "| layer | batch | contender | us | ratio | weight GB/s | GOP/s |",
        "|---|---|---|---|---|---|---|",
    ]
    for text in options.shapes.split(","):
        cols, rows = (int(part) for part in text.split("x"))
        for batch in map(int, options.batches.split(",")):
            lines += table((cols, rows), batch, options.rounds)
            print("\n".join(lines[-20:]) if len(lines) < 30 else "\n".join(lines[-9:]), flush=True)
    suffix = "" if options.threads == 1 else f"_{options.threads}_threads"
    (Path(__file__).parent / "results" / f"layers{suffix}.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
