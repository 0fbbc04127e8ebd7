"""An epoch of the 4-bit arms against the float twin's: the run's own loop, on drawn images."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from common import interleaved, ratio, write
from torch import Tensor

import qcore
from qcore.methods import Method
from qcore.plugins import default
from qcore.tasks import Task, TaskData
from qcore.training import FoldTensors, fit, make_fabric
from qcore_true4bit.tasks.augment import crop_and_flip

STEPS, BATCH = 4, 128
ARMS = ("float", "float_clip", "true4bit", "lsq4", "dorefa4", "w4a8")


class Drawn(Task):
    """A stretch of an epoch of CIFAR-10: random pixels, cropped and mirrored as photographs are."""

    def load(self) -> TaskData:
        """Return the images."""
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randint(0, 256, (STEPS * BATCH, 3, 32, 32), generator=generator, dtype=torch.uint8)
        targets = torch.arange(STEPS * BATCH) % 10
        return TaskData(inputs=inputs, targets=targets, class_names=tuple("0123456789"), source="drawn")

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Crop and mirror a batch."""
        return crop_and_flip(inputs, 4, True, generator)


def epoch(method: Method, name: str, task: Task, precision: Any) -> Callable[[], None]:
    """Return what trains one stretch, as a job of a run does; the timed part includes no building."""
    arm = next(arm for arm in method.arms() if arm.name == name)
    model = method.build(arm, task, torch.Generator().manual_seed(0), {})
    data = FoldTensors(task.data.inputs, task.data.targets, task.data.inputs[:0], task.data.targets[:0])
    phases, fabric = method.phases(arm), make_fabric("cpu", precision)

    def train() -> None:
        fit(model, phases, data, task, generator=torch.Generator().manual_seed(0), fabric=fabric)

    return train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--name", default="true4bit_epoch")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    method: Method = qcore.get("method", "true4bit", epochs=1, width=given.width)
    method.registry = default().registry
    task = Drawn()
    calls = {name: epoch(method, name, task, given.precision) for name in ARMS}
    times = interleaved(calls, rounds=given.rounds, warmup=1)
    rows = {
        name: {"median_s": statistics.median(values) / STEPS, **ratio(values, times["float"])}
        for name, values in times.items()
    }
    shape = (
        f"vgg4bit of width {given.width}, batch {BATCH}, {STEPS} steps an interleaved round, {given.rounds} rounds, "
        f"{given.threads} thread(s), {given.precision}; crop, flip, forward, backward, clipping, AdamW, soft clip"
    )
    lines = [shape, "", "| arm | s a step | x float | quartiles |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {row['median_s']:.3f} | {row['ratio']:.3f} | {row['low']:.3f}-{row['high']:.3f} |"
        for name, row in rows.items()
    ]
    command = f"python benchmarks/true4bit_epoch.py --width {given.width} --threads {given.threads}"
    write(given.name, command, {"shape": shape, "arms": rows}, "\n".join(lines))


if __name__ == "__main__":
    main()
