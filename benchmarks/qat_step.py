"""A training step with fake quantization against the float step: forward, backward, SGD; one thread."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from common import interleaved, ratio, write
from torch.nn import functional

import qcore
from qcore.nn import build_model, set_generator

ROUNDS = 60
BATCH, FEATURES, CLASSES, HIDDEN = 64, 1536, 50, (640, 320)
INPUT = 'core/int(bits=8, granularity="token")'
ARMS = {
    "float": None,
    "core/int 8 bits": {"weight": "core/int(bits=8)", "input": INPUT},
    "core/int 4 bits": {"weight": "core/int(bits=4)", "input": INPUT},
    "bitnet/ternary": {"weight": "bitnet/ternary", "input": INPUT},
    "bitnet/binary": {"weight": "bitnet/binary", "input": INPUT},
}


def step(rule: dict[str, str] | None) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    config = {"in_features": FEATURES, "out_features": CLASSES, "hidden": HIDDEN}
    model = build_model("core/mlp", config, generator)
    if rule is not None:
        model = qcore.quantize(model, {"blocks.*": rule})
    set_generator(model.train(), generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    x = torch.randn(BATCH, FEATURES, generator=generator)
    y = torch.randint(CLASSES, (BATCH,), generator=generator)

    def run() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return run


def main() -> None:
    torch.set_num_threads(1)
    times = interleaved({name: step(rule) for name, rule in ARMS.items()}, rounds=ROUNDS)
    rows = {
        name: {"median_ms": 1e3 * statistics.median(values), **ratio(values, times["float"])}
        for name, values in times.items()
    }
    shape = f"MLP {FEATURES}-{HIDDEN[0]}-{HIDDEN[1]}-{CLASSES}, batch {BATCH}, one thread, {ROUNDS} interleaved rounds"
    lines = [shape, "", "| arm | median ms | x float | quartiles |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {row['median_ms']:.2f} | {row['ratio']:.2f} | {row['low']:.2f}-{row['high']:.2f} |"
        for name, row in rows.items()
    ]
    write("qat_step", "python benchmarks/qat_step.py", {"shape": shape, "arms": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
