"""MobileNetV2 in one call: its packed model and its plans against its own float model run by torch, one thread."""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from itertools import pairwise

import torch
from common import interleaved, ratio, write
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

import qcore
from qcore.backends.plan import Value
from qcore.nn import PlanBuilder
from qcore.quantizers import Quantizer
from qcore.tensor import Encoded
from qcore.tensor.encoded import largest_code

BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, output channels, number and first stride: table 2 of arXiv 1801.04381."""
MIXED = (3, 4, 5, 8, 2, 1)
CLASSES = 1000
STATIC = "core/int(bits=8, granularity='tensor', dynamic=False, symmetric=False)"
FLOATS, FOLDED, PACKED = "float", "float, norms folded", "packed and folded, channels last"


class RowWidths(Quantizer):
    """Weights of the encoding ``symmetric`` whose rows take some widths in turn."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.widths = widths

    def encode(self, x: Tensor) -> Encoded:
        """Return codes that reach the largest magnitude of each row; of 1 bit the signs."""
        rows = x.detach().flatten(1)
        bits = torch.tensor(self.widths).repeat(-(-len(rows) // len(self.widths)))[: len(rows)]
        top = torch.tensor([float(largest_code("symmetric", width)) for width in bits.tolist()])[:, None]
        scale = rows.abs().amax(dim=1, keepdim=True).clamp_min(1e-9) / top
        codes = (rows / scale).round().clamp(min=-top, max=top)
        codes = torch.where(bits[:, None] == 1, torch.where(rows > 0, 1.0, -1.0), codes)
        return Encoded(codes, scale, x.shape, x.dtype, "symmetric", bits)

    def bits(self) -> Tensor:
        """Return the mean width."""
        return torch.tensor(sum(self.widths) / len(self.widths))


class Residual(nn.Module):
    """``x + body(x)``."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum, shaped like ``x``."""
        out: Tensor = x + self.body(x)
        return out

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        """Say the sum in steps."""
        return builder.add(x, builder.lower(self.body, x))


def convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


def block(inputs: int, outputs: int, expansion: int, stride: int) -> nn.Module:
    hidden = inputs * expansion
    layers = [*convolution(inputs, hidden, 1), nn.ReLU6()] if expansion > 1 else []
    layers += [*convolution(hidden, hidden, 3, stride=stride, groups=hidden), nn.ReLU6()]
    body = nn.Sequential(*layers, *convolution(hidden, outputs, 1))
    return Residual(body) if stride == 1 and inputs == outputs else body


def mobilenet() -> nn.Sequential:
    """MobileNetV2 of width 1 for 224 x 224 images, with drawn weights and the statistics of drawn images."""
    torch.manual_seed(0)
    layers, channels = [*convolution(3, 32, 3, stride=2), nn.ReLU6()], 32
    for expansion, outputs, count, stride in BLOCKS:
        for i in range(count):
            layers.append(block(channels, outputs, expansion, 1 if i else stride))
            channels = outputs
    layers += [*convolution(channels, 1280, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(1280, CLASSES))
    with torch.no_grad():
        for _ in range(3):
            model(images(4, seed=2))
    return model.eval()


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn((count, 3, 224, 224), generator=torch.Generator().manual_seed(seed))


def folded(model: nn.Module) -> nn.Module:
    """Return a copy with each batch norm that follows a convolution folded into it."""
    found = copy.deepcopy(model)
    for part in [module for module in found.modules() if isinstance(module, nn.Sequential)]:
        for i, (first, second) in enumerate(pairwise([*part])):
            if isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d):
                part[i], part[i + 1] = fuse_conv_bn_eval(first, second), nn.Identity()
    return found


def contenders(model: nn.Module, widths: tuple[int, ...]) -> dict[str, nn.Module]:
    rule = {"weight": RowWidths(widths), "input": STATIC}
    quantized = qcore.calibrate(qcore.quantize(model, {"*": rule}), [images(4, seed=1)])
    packed = qcore.pack(quantized, fold=True)
    return {
        PACKED: packed,
        "plan of floats": qcore.compile_plan(packed, codes=False),
        "plan": qcore.compile_plan(packed),
    }


def floats(model: nn.Module) -> dict[str, nn.Module]:
    """Torch as it is fastest here: channels last, batch norms as they are and folded; and contiguous, folded."""
    last = torch.channels_last
    return {
        FLOATS: copy.deepcopy(model).to(memory_format=last),
        FOLDED: folded(model).to(memory_format=last),
        "float, norms folded, contiguous": folded(model),
    }


def measure(models: dict[str, nn.Module], x: Tensor, rounds: int) -> dict[str, dict[str, float]]:
    last = x.contiguous(memory_format=torch.channels_last)

    def call(name: str, model: nn.Module) -> Callable[[], object]:
        own = last if name in (FLOATS, FOLDED, PACKED) else x
        return lambda: model(own)

    with torch.inference_mode():
        times = interleaved({name: call(name, model) for name, model in models.items()}, rounds=rounds)
    return {
        name: {"median_us": 1e6 * statistics.median(values), **ratio(times[FOLDED], values)}
        for name, values in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="calls of each contender at batch 1")
    parser.add_argument("--dry", action="store_true", help="write no result files")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = mobilenet()
    data = {}
    lines = [
        "Speed over the float model with its batch norms folded, channels last, run by torch (above 1 is faster).",
        "",
    ]
    lines += ["| weights | batch | contender | median us | speed | quartiles |", "|---|---|---|---|---|---|"]
    for title, widths in (("rows of 1 to 5 and 8 bits", MIXED), ("8 bits", (8,)), ("4 bits", (4,))):
        models = floats(model) | contenders(model, widths)
        for batch, rounds in {1: options.rounds, 8: max(options.rounds // 5, 3)}.items():
            rows = measure(models, images(batch), rounds)
            data[f"{title}, batch {batch}"] = rows
            lines += [
                f"| {title} | {batch} | {name} | {row['median_us']:.0f} | {row['ratio']:.2f} "
                f"| {row['low']:.2f}-{row['high']:.2f} |"
                for name, row in rows.items()
            ]
    lines += ["", "224 x 224 images, static 8-bit inputs. One thread, inference mode, contenders in turn."]
    if not options.dry:
        write("mobilenet", "python benchmarks/mobilenet.py", {"models": data}, "\n".join(lines))


if __name__ == "__main__":
    main()
