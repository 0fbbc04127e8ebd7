"""Whole models in one call: packed models and their plans against their own float models run by torch, one thread."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable

import torch
from common import folded, interleaved, ratio, vgg_features, write
from torch import Tensor, nn

import qcore
from qcore.nn import build_model

INPUT = 'core/int(bits=8, granularity="token")'
EXPERTS = ("bitnet/ternary", "core/int(bits=4)", "core/int(bits=8)")
BITS4 = {"weight": "core/int(bits=4)", "input": INPUT}
STATIC4 = BITS4 | {"input": "core/int(bits=8, granularity='tensor', dynamic=False, symmetric=False)"}
FEATURES, CLASSES, HIDDEN = 1536, 50, (640, 320)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mixture() -> dict[str, nn.Module]:
    """A trained router's spread, three experts of ternary, 4-bit and 8-bit weights, and float heads."""
    config = {"in_features": FEATURES, "out_features": CLASSES, "hidden": HIDDEN}
    model = build_model("curiosity_moe/mixture", config).eval()
    with torch.no_grad():
        model.moe.router.layer3.weight.mul_(3)
    model.moe.router.calibrate(normal(512, FEATURES, seed=1))
    rules: dict[str, object] = {"moe.experts.*.head": None}
    for i, weight in enumerate(EXPERTS):
        rules[f"moe.experts.{i}.*"] = {"weight": weight, "input": INPUT}
    return with_plan(model, rules)


def mlp() -> dict[str, nn.Module]:
    config = {"in_features": FEATURES, "out_features": CLASSES, "hidden": HIDDEN}
    return with_plan(build_model("core/mlp", config).eval(), {"head": None, "*": BITS4})


def vgg() -> dict[str, nn.Module]:
    """32 x 32 images; torch runs channels-last, as it is and with the batch norms folded into the convolutions."""
    model = vgg_network()
    models = with_plan(model, {"*": BITS4})
    models["float"] = copy.deepcopy(model).to(memory_format=torch.channels_last)
    return models | {"float, norms folded": folded(model).to(memory_format=torch.channels_last)}


def vgg_network() -> nn.Sequential:
    layers = [*vgg_features(), nn.Flatten(), nn.Linear(1024, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 10)]
    return nn.Sequential(*layers).eval()


def static_vgg() -> dict[str, nn.Module]:
    """The same with static ranges: its layers may hand over codes, and its batch norms are folded in the last one."""
    model = vgg_network()
    quantized = qcore.calibrate(qcore.quantize(model, {"*": STATIC4}), [normal(8, 3, 32, 32, seed=1)])
    packed = qcore.pack(quantized)
    return {
        "float": copy.deepcopy(model).to(memory_format=torch.channels_last),
        "plan of floats": qcore.compile_plan(packed, codes=False),
        "packed, plan": qcore.compile_plan(packed),
        "packed and folded, plan": qcore.compile_plan(qcore.pack(packed, fold=True)),
    }


def with_plan(model: nn.Module, rules: dict[str, object]) -> dict[str, nn.Module]:
    packed = qcore.pack(qcore.quantize(model, rules))
    return {"float": model, "packed": packed, "packed, plan": qcore.compile_plan(packed)}


def measure(models: dict[str, nn.Module], x: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    def call(name: str, model: nn.Module) -> Callable[[], object]:
        last = x.dim() == 4 and name.startswith("float")
        own = x.contiguous(memory_format=torch.channels_last) if last else x
        return lambda: model(own)

    with torch.inference_mode():
        times = interleaved({name: call(name, model) for name, model in models.items()}, rounds=rounds)
    return {
        name: {"median_us": 1e6 * statistics.median(values), **ratio(times["float"], values)}
        for name, values in times.items()
    }


CASES: list[tuple[str, Callable[[], dict[str, nn.Module]], tuple[int, ...], dict[int, int]]] = [
    ("curiosity MoE 1536-640-320, 3 experts", mixture, (FEATURES,), {1: 300, 64: 60}),
    ("VGG of 11 layers, 4-bit weights, 8-bit inputs", vgg, (3, 32, 32), {1: 60, 32: 15}),
    ("VGG of 11 layers, 4-bit weights, static 8-bit inputs", static_vgg, (3, 32, 32), {1: 60, 32: 15}),
    ("MLP 1536-640-320-50, 4-bit weights, 8-bit inputs", mlp, (FEATURES,), {1: 300}),
]


def main() -> None:
    torch.set_num_threads(1)
    data, kernels = {}, set()
    lines = ["Speed over the float model run by torch (above 1 is faster).", ""]
    lines += ["| model | batch | contender | median us | speed | quartiles |", "|---|---|---|---|---|---|"]
    for title, make, shape, batches in CASES:
        models = make()
        kernels |= {row["kernel"].partition(": ")[2] for row in qcore.explain(models["packed, plan"]).rows}
        for batch, rounds in batches.items():
            rows = measure(models, normal(batch, *shape), rounds)
            data[f"{title}, batch {batch}"] = rows
            lines += [
                f"| {title} | {batch} | {name} | {row['median_us']:.0f} | {row['ratio']:.2f} "
                f"| {row['low']:.2f}-{row['high']:.2f} |"
                for name, row in rows.items()
            ]
    lines += ["", f"Kernels: {'; '.join(sorted(kernels - {''}))}. One thread, inference mode, contenders in turn."]
    write("plan", "python benchmarks/plan.py", {"models": data}, "\n".join(lines))


if __name__ == "__main__":
    main()
