"""What the benchmarks share: the machine's description, interleaved calls of a process, and result files."""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from qcore.measure.bench.machine import machine_facts

__all__ = ["RESULTS", "folded", "interleaved", "ratio", "vgg_features", "write", "write_report"]

RESULTS = Path(__file__).parent / "results"


def interleaved(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 3
) -> dict[str, list[float]]:
    """Call the contenders in turn (A B A B ...) and return the seconds of each call."""
    for _ in range(warmup):
        for call in contenders.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return times


def vgg_features() -> list[nn.Module]:
    """Return the convolutions of a VGG for 32 x 32 images: nine of 3 x 3 with batch norm and ReLU, four max pools."""
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 256, 256, 0):
        if width:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        else:
            layers.append(nn.MaxPool2d(2))
    return layers


def folded(model: nn.Sequential) -> nn.Sequential:
    """Return a float network in eval mode with the batch norms that follow its convolutions folded into them."""
    layers = [*copy.deepcopy(model), nn.Identity()]
    for i, (first, second) in enumerate(pairwise(layers)):
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
            layers[i], layers[i + 1] = fuse_conv_bn_eval(first, second), nn.Identity()
    return nn.Sequential(*layers).eval()


def ratio(times: list[float], base: list[float]) -> dict[str, float]:
    """Return the median of ``times`` over the median of ``base``, and the quartiles of the ratio round by round."""
    pairs = sorted(a / b for a, b in zip(times, base, strict=True))
    low, _, high = statistics.quantiles(pairs, n=4)
    return {"ratio": statistics.median(times) / statistics.median(base), "low": low, "high": high}


def write(name: str, command: str, data: Mapping[str, Any], table: str) -> None:
    """Write ``results/NAME.json`` and ``results/NAME.md``; the command that made them stands in both."""
    facts = {key: value for key, value in machine_facts().items() if key != "load"}  # by now it is our own
    where = ", ".join(f"{key} {facts[key]}" for key in ("date", "cpu", "cores", "python", "qcore"))
    page = f"# {name}\n\n`{command}`\n\n{where}, torch {facts['versions']['torch']}\n\n{table.rstrip()}\n"
    write_report(name, {"command": command, "machine": facts, **data}, page)


def write_report(name: str, data: Mapping[str, Any], page: str) -> None:
    """Write ``data`` to ``results/NAME.json`` and ``page`` to ``results/NAME.md``."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(page)
