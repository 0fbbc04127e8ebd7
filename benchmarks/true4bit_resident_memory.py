"""Memory of training a VGG of 3,251,018 parameters: 4-bit resident weights beside float32 and fake quantization.

State is what lives between two steps. Peaks are the largest sum of bytes that torch's CPU allocator had given out
during a step, from its profiler: transient weights, gradients, activations and temporaries, all included. A step of 2
images shows what does not grow with the batch. What oneDNN keeps for itself is not seen by the allocator.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from common import ratio, write
from torch import Tensor, nn
from torch.nn import functional as F

import qcore
from qcore.methods import Progress
from qcore.nn import build_model, set_generator
from qcore_true4bit.clip import SoftClip
from qcore_true4bit.resident import ResidentConfig, make_resident, set_rates, state_nbytes

PARAMETERS, WEIGHTS = 3_251_018, 3_246_784
FLOAT_BYTES = 12
"""Weight and two moments of AdamW in float32."""

RESIDENT = {
    "4-bit codes": ResidentConfig(),
    "4-bit codes, residual": ResidentConfig(residual=True),
    "4-bit codes, both moments 8-bit": ResidentConfig(moments="8bit"),
}


def vgg() -> nn.Module:
    model = build_model("true4bit/vgg4bit", {}, torch.Generator().manual_seed(0))
    set_generator(model, torch.Generator().manual_seed(0))
    return model.train()


def fake_quantized() -> nn.Module:
    rule = {"weight": "true4bit/tanh"}
    return qcore.quantize(vgg(), {"type:Conv2d": rule, "type:Linear": rule}, inplace=True)


def resident(config: ResidentConfig) -> nn.Module:
    model = make_resident(vgg(), config, torch.Generator().manual_seed(0), inplace=True)
    set_generator(model, torch.Generator().manual_seed(0))
    set_rates(model, lr=0.1)
    return model


class Trainer:
    """A model, its AdamW and a batch."""

    def __init__(self, model: nn.Module, *, soft_clip: bool) -> None:
        self.model, self.soft_clip = model, soft_clip
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=5e-4, fused=True)

    def step(self, images: Tensor, labels: Tensor) -> None:
        """Take a step; the gradients are freed after it, as ``zero_grad`` does before the next."""
        F.cross_entropy(self.model(images), labels).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.soft_clip:
            SoftClip()(self.model, Progress(step=0, steps=1, epoch=0, epochs=1))


def batch(size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    images = torch.randint(0, 256, (size, 3, 32, 32), generator=generator).float()
    return images, torch.randint(0, 10, (size,), generator=generator)


def peak_nbytes(call: Callable[[], object]) -> int:
    """Return the most bytes that ``call`` had allocated at once, beyond those that were there before."""
    gc.collect()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def saved_nbytes(model: nn.Module, images: Tensor) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, without parameters and buffers."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = model(images)
    del output
    return sum(seen.values())


def measure(trainer: Trainer, size: int) -> dict[str, Any]:
    few, many = batch(2), batch(size)
    trainer.step(*few)
    state = state_nbytes(trainer.model, [trainer.optimizer])
    small, large = (peak_nbytes(lambda images=images: trainer.step(*images)) for images in (few, many))
    return {
        "weights": state.weights,
        "optimizer": state.optimizer,
        "state": state.total,
        "bytes_per_parameter": state.total / PARAMETERS,
        "peak_batch_2": state.total + small,
        f"peak_batch_{size}": state.total + large,
        f"activations_batch_{size}": saved_nbytes(trainer.model, many[0]),
    }


def speed(trainers: dict[str, Trainer], size: int, rounds: int) -> dict[str, Any]:
    """Return the CPU seconds of a step, taken in turn; other work on the machine disturbs these less than wall time."""
    images, labels = batch(size)
    times: dict[str, list[float]] = {name: [] for name in trainers}
    for _ in range(rounds):
        for name, trainer in trainers.items():
            start = time.process_time()
            trainer.step(images, labels)
            times[name].append(time.process_time() - start)
    base = times["fake quantization, AdamW"]
    return {name: {"median_cpu_s": statistics.median(t), **ratio(t, base)} for name, t in times.items()}


def table(memory: dict[str, dict[str, Any]], times: dict[str, Any], size: int) -> str:
    limit = FLOAT_BYTES * PARAMETERS
    lines = [
        f"| training | weights MB | optimizer MB | B/parameter | share of float | peak, 2 images | peak, {size} | "
        f"of it saved activations | CPU time of a step against fake quantization (quartiles) |",
        "|---" + "|---:" * 8 + "|",
    ]
    for name, row in memory.items():
        took = times[name]
        cells = [f"{row[key] / 1e6:.2f}" for key in ("weights", "optimizer")]
        cells += [f"{row['bytes_per_parameter']:.2f}", f"{row['state'] / limit:.3f}"]
        keys = ("peak_batch_2", f"peak_batch_{size}", f"activations_batch_{size}")
        cells += [f"{row[key] / 1e6:.1f}" for key in keys]
        cells.append(f"{took['ratio']:.2f} ({took['low']:.2f}-{took['high']:.2f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "MB are 10^6 bytes. The share is that of 12 bytes for each of the 3,251,018 parameters."]
    lines += ["", "Peaks count what torch's allocator gave out, state included, the batch itself excluded."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    trainers = {
        "float32, AdamW": Trainer(vgg(), soft_clip=False),
        "fake quantization, AdamW": Trainer(fake_quantized(), soft_clip=True),
        **{name: Trainer(resident(config), soft_clip=False) for name, config in RESIDENT.items()},
    }
    memory = {name: measure(trainer, options.batch) for name, trainer in trainers.items()}
    times = speed(trainers, options.batch, options.rounds)
    command = f"python benchmarks/true4bit_resident_memory.py --batch {options.batch} --rounds {options.rounds}"
    command += f" --threads {options.threads}"
    data = {"parameters": PARAMETERS, "quantized_weights": WEIGHTS, "memory": memory, "step": times}
    write("true4bit_resident_memory", command, data, table(memory, times, options.batch))


if __name__ == "__main__":
    main()
