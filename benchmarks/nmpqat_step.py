"""A training step of learned widths against uniform widths and float: the run's own loop, on drawn rows."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from common import interleaved, ratio, write

import qcore
from qcore.methods import Method
from qcore.plugins import default
from qcore.tasks import Task, TaskData
from qcore.training import FoldTensors, fit, make_fabric

STEPS, BATCH, FEATURES, CLASSES = 40, 128, 54, 7
ARMS = ("float", "uniform1", "uniform4", "int4", "nmpqat", "int4_a8", "nmpqat_wa")
UNIFORM = {
    "int4": {"type:Linear": "core/int(bits=4)"},
    "int4_a8": {
        "blocks.0.linear": "core/int(bits=4)",
        "type:Linear": {"weight": "core/int(bits=4)", "input": "core/int(bits=8, granularity='token')"},
    },
}
"""Uniform quantization-aware training: what learned widths are compared with."""


class Drawn(Task):
    """Rows of random features."""

    def load(self) -> TaskData:
        """Return inputs and classes."""
        inputs = torch.randn(STEPS * BATCH, FEATURES, generator=torch.Generator().manual_seed(0))
        names = tuple(str(number) for number in range(CLASSES))
        return TaskData(inputs=inputs, targets=torch.arange(len(inputs)) % CLASSES, class_names=names, source="drawn")


def epoch(method: Method, name: str, task: Task) -> Callable[[], None]:
    """Return what trains one epoch, as a job of a run does."""
    arm = next(arm for arm in method.arms() if arm.name == ("float" if name in UNIFORM else name))
    model = method.build(arm, task, torch.Generator().manual_seed(0), {})
    if name in UNIFORM:
        model = qcore.quantize(model, {"head": None, **UNIFORM[name]})
    data = FoldTensors(task.data.inputs, task.data.targets, task.data.inputs[:0], task.data.targets[:0])
    phases, fabric = method.phases(arm), make_fabric()

    def train() -> None:
        fit(model, phases, data, task, generator=torch.Generator().manual_seed(0), fabric=fabric)

    return train


def base(name: str) -> str:
    """Return what an arm's time is a ratio of: uniform widths, of inputs too where it has such."""
    return "int4_a8" if name in ("int4_a8", "nmpqat_wa") else "int4"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--name", default="nmpqat_step")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    method: Method = qcore.get("method", "nmpqat", epochs=1, freeze=0.0, hidden=(512, 512, 512, 512))
    method.registry = default().registry
    task = Drawn()
    calls = {name: epoch(method, name, task) for name in ARMS}
    times = interleaved(calls, rounds=given.rounds, warmup=2)
    rows = {
        name: {"median_ms": 1e3 * statistics.median(values) / STEPS, **ratio(values, times[base(name)])}
        for name, values in times.items()
    }
    shape = (
        f"MLP of {FEATURES} features, four layers of 512 and a head, batch {BATCH}, {STEPS} steps an interleaved "
        f"round, {given.rounds} rounds, {given.threads} thread(s); forward, backward, AdamW, Adam for the strengths. "
        "int4, int4_a8: uniform quantization-aware training by core/int, of weights and of inputs too"
    )
    lines = [shape, "", "| arm | ms a step | x | of | quartiles |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {row['median_ms']:.2f} | {row['ratio']:.3f} | {base(name)} | {row['low']:.3f}-{row['high']:.3f} |"
        for name, row in rows.items()
    ]
    write(given.name, f"python benchmarks/nmpqat_step.py --threads {given.threads}", {"arms": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
