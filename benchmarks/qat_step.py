"""A training step with fake quantization against the float step: forward, backward, SGD; one thread."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from common import interleaved, ratio, vgg_features, write
from torch import nn
from torch.nn import functional

import qcore
from qcore.nn import build_model, set_generator

INPUT = 'core/int(bits=8, granularity="token")'
MLP_ROUNDS, MLP_BATCH, FEATURES, CLASSES, HIDDEN = 60, 64, 1536, 50, (640, 320)
VGG_ROUNDS, VGG_BATCH, SIDE = 5, 128, 32
MLP_ARMS = {
    "float": None,
    "core/int 8 bits": {"weight": "core/int(bits=8)", "input": INPUT},
    "core/int 4 bits": {"weight": "core/int(bits=4)", "input": INPUT},
    "bitnet/ternary": {"weight": "bitnet/ternary", "input": INPUT},
    "bitnet/binary": {"weight": "bitnet/binary", "input": INPUT},
}
VGG_ARMS = {name: MLP_ARMS[name] for name in ("float", "core/int 4 bits", "bitnet/ternary")}


def mlp(generator: torch.Generator) -> nn.Module:
    config = {"in_features": FEATURES, "out_features": CLASSES, "hidden": HIDDEN}
    return build_model("core/mlp", config, generator)


def vgg() -> nn.Module:
    return nn.Sequential(*vgg_features(), nn.Flatten(), nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, 10))


def step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    def run() -> None:
        optimizer.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return run


def mlp_step(rule: dict[str, str] | None) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    model = mlp(generator)
    if rule is not None:
        model = qcore.quantize(model, {"blocks.*": rule})
    set_generator(model.train(), generator)
    x = torch.randn(MLP_BATCH, FEATURES, generator=generator)
    return step(model, x, torch.randint(CLASSES, (MLP_BATCH,), generator=generator))


def vgg_step(rule: dict[str, str] | None) -> Callable[[], None]:
    generator = torch.Generator().manual_seed(0)
    model = vgg()
    if rule is not None:
        model = qcore.quantize(model, {"type:Conv2d": rule, "type:Linear": rule})
    x = torch.randn(VGG_BATCH, 3, SIDE, SIDE, generator=generator)
    return step(model.train(), x, torch.randint(10, (VGG_BATCH,), generator=generator))


def measure(calls: dict[str, Callable[[], None]], rounds: int, warmup: int) -> dict[str, dict[str, float]]:
    times = interleaved(calls, rounds=rounds, warmup=warmup)
    return {
        name: {"median_ms": 1e3 * statistics.median(values), **ratio(values, times["float"])}
        for name, values in times.items()
    }


def table(shape: str, rows: dict[str, dict[str, float]]) -> list[str]:
    lines = [shape, "", "| arm | median ms | x float | quartiles |", "|---|---|---|---|"]
    return lines + [
        f"| {name} | {row['median_ms']:.2f} | {row['ratio']:.2f} | {row['low']:.2f}-{row['high']:.2f} |"
        for name, row in rows.items()
    ]


def main() -> None:
    torch.set_num_threads(1)
    small = measure({name: mlp_step(rule) for name, rule in MLP_ARMS.items()}, MLP_ROUNDS, warmup=3)
    large = measure({name: vgg_step(rule) for name, rule in VGG_ARMS.items()}, VGG_ROUNDS, warmup=1)
    one = f"one thread, {MLP_ROUNDS} interleaved rounds"
    shapes = {
        "mlp": f"MLP {FEATURES}-{HIDDEN[0]}-{HIDDEN[1]}-{CLASSES}, batch {MLP_BATCH}, {one}",
        "vgg": f"VGG of 3x3 convolutions 64,64,M,128,128,M,256,256,256,M,256,256,M and 256-10, {SIDE}x{SIDE} images, "
        f"batch {VGG_BATCH}, every layer quantized, one thread, {VGG_ROUNDS} interleaved rounds",
    }
    data: dict[str, Any] = {"mlp": {"shape": shapes["mlp"], "arms": small}}
    data["vgg"] = {"shape": shapes["vgg"], "arms": large}
    lines = [*table(shapes["mlp"], small), "", *table(shapes["vgg"], large)]
    write("qat_step", "python benchmarks/qat_step.py", data, "\n".join(lines))


if __name__ == "__main__":
    main()
