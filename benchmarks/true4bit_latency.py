"""The packed VGG against its float twin run by torch, at batch 1 and 32: packed, folded, and each in one call."""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable

import torch
from common import folded, interleaved, ratio, write
from torch import Tensor, nn

import qcore
from qcore.nn import build_model

ROUNDS = {1: 60, 32: 15}
INPUT = "core/int(bits=8, granularity='token')"


def networks(seed: int = 0) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return the float network and its W4A32 and W4A8 twins, with batch norms and ranges that have seen data."""
    generator = torch.Generator().manual_seed(seed)
    model = build_model("true4bit/vgg4bit", {}, generator)
    images = torch.randint(0, 256, (64, 3, 32, 32), generator=generator).float()
    model.fit_scalers(images, torch.zeros(64))
    weight = {"weight": "true4bit/tanh"}
    both = {**weight, "input": "true4bit/activation"}
    four = {"type:Conv2d": weight, "type:Linear": weight}
    eight = {"features.0": {**weight, "input": INPUT}, "type:Conv2d": both, "type:Linear": both}
    qcore.nn.set_generator(model, generator)
    made = [model, qcore.quantize(model, four), qcore.quantize(model, eight)]
    with torch.no_grad():
        for network in made:
            network.train()(images)
    return made[0].eval(), made[1].eval(), made[2].eval()


def folded_float(model: nn.Module) -> nn.Module:
    """Return the float network with its batch norms folded into its convolutions, channels last."""
    model = copy.deepcopy(model)
    model.features = folded(model.features)
    return model.to(memory_format=torch.channels_last)


def contenders(model: nn.Module, four: nn.Module, eight: nn.Module) -> dict[str, nn.Module]:
    packed, without_norms = qcore.pack(eight), qcore.pack(eight, fold=True)
    return {
        "float": copy.deepcopy(model).to(memory_format=torch.channels_last),
        "float, norms folded": folded_float(model),
        "W4A32 packed": qcore.pack(four),
        "W4A8 packed": packed,
        "W4A8 packed, folded": without_norms,
        "W4A8 plan": qcore.compile_plan(packed),
        "W4A8 plan, folded": qcore.compile_plan(without_norms),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="true4bit_latency")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    model, four, eight = networks()
    models = contenders(model, four, eight)
    x = torch.randint(0, 256, (max(ROUNDS), 3, 32, 32), generator=torch.Generator().manual_seed(1)).float()
    with torch.inference_mode():
        equal = all(torch.equal(models[name](x), eight(x)) for name in ("W4A8 packed", "W4A8 plan"))
    data, lines = {}, [f"Packed and planned W4A8 logits equal eval's bit for bit: {equal}.", ""]
    lines += ["| batch | contender | median us | speed over float | quartiles |", "|---|---|---|---|---|"]
    for batch, rounds in ROUNDS.items():
        rows = measure(models, x[:batch], rounds)
        data[str(batch)] = rows
        lines += [
            f"| {batch} | {name} | {row['median_us']:.0f} | {row['ratio']:.2f} | {row['low']:.2f}-{row['high']:.2f} |"
            for name, row in rows.items()
        ]
    steps = {
        row["layer"]: f"{row['kernel']}; gives {row['output']}"
        for row in qcore.explain(models["W4A8 plan, folded"]).rows
    }
    lines += [
        "",
        f"vgg4bit (3,251,018 parameters), {given.threads} thread(s), contenders in turn. The folded plan:",
        "",
    ]
    lines += [f"- {layer or 'the model'}: {kernel}" for layer, kernel in steps.items()]
    command = f"python benchmarks/true4bit_latency.py --threads {given.threads}"
    write(given.name, command, {"equal": equal, "batches": data, "steps": steps}, "\n".join(lines))


def measure(models: dict[str, nn.Module], x: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    def call(model: nn.Module) -> Callable[[], object]:
        return lambda: model(x)

    with torch.inference_mode():
        times = interleaved({name: call(model) for name, model in models.items()}, rounds=rounds)
    return {
        name: {"median_us": 1e6 * statistics.median(values), **ratio(times["float"], values)}
        for name, values in times.items()
    }


if __name__ == "__main__":
    main()
