"""Packed linear layers on each available backend against torch fp32, one thread."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from common import interleaved, ratio, write
from torch import nn

import qcore
from qcore.backends import find_backends
from qcore.nn.init import linear

ROUNDS = 30
SHAPES = ((1536, 640), (640, 320))
BATCHES = (1, 64)
INPUT = 'core/int(bits=8, granularity="token")'
WEIGHTS = {"ternary": "bitnet/ternary", "4 bits": "core/int(bits=4)", "8 bits": "core/int(bits=8)"}


def packed(layer: nn.Module, weight: str, backend: str) -> nn.Module:
    model = qcore.quantize(nn.Sequential(layer), {"0": {"weight": weight, "input": INPUT}})
    return qcore.pack(model, backend)


def measure(layer: nn.Module, batch: int, backends: list[str]) -> dict[str, dict[str, float]]:
    x = torch.randn(batch, layer.in_features, generator=torch.Generator().manual_seed(0))
    models = {"float": layer}
    models |= {f"{w}, {b}": packed(layer, ref, b) for b in backends for w, ref in WEIGHTS.items()}

    def call(model: nn.Module) -> Callable[[], object]:
        return lambda: model(x)

    with torch.inference_mode():
        times = interleaved({name: call(model) for name, model in models.items()}, rounds=ROUNDS)
    return {
        name: {"median_us": 1e6 * statistics.median(values), **ratio(times["float"], values)}
        for name, values in times.items()
    }


def main() -> None:
    torch.set_num_threads(1)
    backends = [candidate.id for candidate in find_backends()[0] if candidate.backend.probe().available]
    data = {}
    lines = ["Speed over torch fp32 (above 1 is faster).", "", "| layer | batch | contender | median us | speed |"]
    lines.append("|---|---|---|---|---|")
    for features, out in SHAPES:
        layer = linear(features, out, torch.Generator().manual_seed(0)).eval()
        for batch in BATCHES:
            rows = measure(layer, batch, backends)
            data[f"{features}->{out} batch {batch}"] = rows
            lines += [
                f"| {features} -> {out} | {batch} | {name} | {row['median_us']:.0f} "
                f"| {row['ratio']:.2f} ({row['low']:.2f}-{row['high']:.2f}) |"
                for name, row in rows.items()
            ]
    write("packed_layers", "python benchmarks/packed_layers.py", {"layers": data}, "\n".join(lines))


if __name__ == "__main__":
    main()
