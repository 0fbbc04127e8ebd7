"""Rows of several widths beside rows of one: a packed layer whose neurons have 1, 2, 4 and 8 bits, and an MLP of such.

The estimate is the time of the uniform layers, each by the share of rows that have its width. Layers are timed at
batch 1 and 32, with float inputs and with 8-bit ones, their rows sorted by width and as they come; one thread.
``python benchmarks/mixed_rows.py [--rounds N] [--shape ROWSxCOLS ...]`` writes ``results/mixed_rows*``.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from statistics import median, quantiles

import torch
from common import write
from torch import Tensor, nn

from qcore.backends.choice import find_backends
from qcore.measure.bench.contest import torch_threads
from qcore.measure.bench.timing import clock_for, take_turns
from qcore.nn.packed import PackedLinear
from qcore.nn.plan import Plan, compile_plan
from qcore.quantizers import make_quantizer
from qcore.tensor import Encoded, QTensor

WIDTHS = (1, 2, 4, 8)
SHARES = {
    1.1: (0.94, 0.04, 0.02, 0.0),
    1.4: (0.80, 0.12, 0.07, 0.01),
    2.0: (0.55, 0.26, 0.15, 0.04),
    3.0: (0.30, 0.32, 0.24, 0.14),
}
"""Shares of rows of 1, 2, 4 and 8 bits, by the average that they make."""
SHAPES, BATCHES = ((512, 512), (1536, 1536), (4096, 4096)), (1, 32)
INPUTS = {"float": None, "8 bits": "core/int(bits=8, granularity='token')"}
DEPTH, MLP_WIDTH = 4, 512
MOST_RATIO = 1.15
UNIFORM = {
    f"{bits} bits": (bits, (float(bits == 1), float(bits == 2), float(bits == 4), float(bits == 8))) for bits in WIDTHS
}

Call = Callable[[], object]


@dataclass(frozen=True)
class Found:
    """A mixed contender beside the uniform ones of its shape, batch and input; ratios with their quartiles."""

    subject: str
    batch: int
    input: str
    rows: str
    average: float
    median_us: float
    uniform_us: tuple[float, ...]
    estimate: dict[str, float]
    four: dict[str, float]

    @property
    def meets(self) -> bool:
        """Whether it stays within the estimate, and below 4 bits where its average is below 2."""
        return self.estimate["ratio"] <= MOST_RATIO and (self.average >= 2 or self.four["ratio"] < 1)


def row_bits(rows: int, shares: tuple[float, ...], *, sort: bool) -> Tensor:
    """Return widths (rows,) in those shares, ascending or shuffled."""
    ends = [round(rows * sum(shares[: i + 1])) for i in range(len(shares))]
    counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    widths = torch.repeat_interleave(torch.tensor(WIDTHS), torch.tensor(counts))
    return widths if sort else widths[torch.randperm(rows, generator=torch.Generator().manual_seed(0))]


def layer(shape: tuple[int, int], bits: Tensor, inputs: str | None) -> PackedLinear:
    """Return a layer of random odd codes on the best backend."""
    drawn = torch.Generator().manual_seed(1)
    levels = (2**bits)[:, None]
    stored = (torch.rand(shape, generator=drawn) * levels).floor().clamp_max(levels - 1)
    scale = 0.01 + torch.rand(shape[0], 1, generator=drawn)
    weight = Encoded(2 * stored - (levels - 1), scale, torch.Size(shape), torch.float32, "odd", bits)
    bias = torch.randn(shape[0], generator=drawn)
    quantizer = None if inputs is None else make_quantizer(inputs)
    candidates, forced = find_backends()
    return PackedLinear(QTensor.pack(weight), bias, quantizer, {}).prepare(candidates, forced=forced)


def mlp(bits: Tensor, inputs: str | None) -> Plan:
    """Return hidden layers of such rows with ReLU between them, as packing leaves them, compiled."""
    shape = (len(bits), len(bits))
    layers = [part for _ in range(DEPTH) for part in (layer(shape, bits, inputs), nn.ReLU())]
    return compile_plan(nn.Sequential(*layers).eval())


def contenders(
    make: Callable[[Tensor], nn.Module], rows: int
) -> Iterator[tuple[str, float, tuple[float, ...], nn.Module]]:
    """Yield name, average bits, shares and model of every contender, the uniform ones first."""
    for name, (bits, shares) in UNIFORM.items():
        yield name, float(bits), shares, make(row_bits(rows, shares, sort=True))
    for average, shares in SHARES.items():
        for rows_are in ("sorted", "as they come"):
            widths = row_bits(rows, shares, sort=rows_are == "sorted")
            yield f"{average}, {rows_are}", float(widths.float().mean()), shares, make(widths)


def measure(
    subject: str, make: Callable[[Tensor], nn.Module], rows: int, x: Tensor, inputs: str, rounds: int
) -> list[Found]:
    """Time all contenders in turns."""
    every = list(contenders(make, rows))
    calls: dict[str, Call] = {name: (lambda model=model: model(x)) for name, _, _, model in every}
    times = take_turns(calls, rounds=rounds, clock=clock_for(1))
    uniform = [times[name] for name in UNIFORM]
    found = []
    for name, average, shares, _ in every[len(UNIFORM) :]:
        estimate = [sum(s * t for s, t in zip(shares, round_, strict=True)) for round_ in zip(*uniform, strict=True)]
        rows_are = name.partition(", ")[2]
        compared = by_round(times[name], estimate), by_round(times[name], times["4 bits"])
        medians = 1e6 * median(times[name]), tuple(1e6 * median(of) for of in uniform)
        found.append(Found(subject, len(x), inputs, rows_are, average, *medians, *compared))
    return found


def by_round(times: list[float], base: list[float]) -> dict[str, float]:
    """Return the median and the quartiles of the ratio, round by round: the machine is shared."""
    low, middle, high = quantiles([a / b for a, b in zip(times, base, strict=True)], n=4)
    return {"ratio": middle, "low": low, "high": high}


def run(shapes: list[tuple[int, int]], rounds: int) -> list[Found]:
    """Return what was found of every layer and of the MLP."""
    found: list[Found] = []
    for shape, (inputs, quantizer), batch in product(shapes, INPUTS.items(), BATCHES):
        x = torch.randn(batch, shape[1], generator=torch.Generator().manual_seed(2))
        make = partial(layer, shape, inputs=quantizer)
        found += measure(f"{shape[0]} x {shape[1]}", make, shape[0], x, inputs, rounds)
        tell(found)
    for (inputs, quantizer), batch in product(INPUTS.items(), BATCHES):
        x = torch.randn(batch, MLP_WIDTH, generator=torch.Generator().manual_seed(2))
        subject = f"MLP of {DEPTH} x {MLP_WIDTH}, in a plan"
        found += measure(subject, partial(mlp, inputs=quantizer), MLP_WIDTH, x, inputs, rounds)
        tell(found)
    return found


def tell(found: list[Found]) -> None:
    """Say on stderr what was found last."""
    last = [
        one
        for one in found
        if (one.subject, one.batch, one.input) == (found[-1].subject, found[-1].batch, found[-1].input)
    ]
    sys.stderr.write("\n".join(map(line, last)) + "\n")


def line(one: Found) -> str:
    """Return a row of the table."""
    ratios = " | ".join(f"{r['ratio']:.2f} ({r['low']:.2f}-{r['high']:.2f})" for r in (one.estimate, one.four))
    uniform = " / ".join(f"{us:.0f}" for us in one.uniform_us)
    place = f"| {one.subject} | {one.batch} | {one.input} | {uniform} | {one.rows} | {one.average:.2f}"
    return f"{place} | {one.median_us:.1f} | {ratios} | {'yes' if one.meets else 'no'} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--shape", nargs="*", default=["x".join(map(str, shape)) for shape in SHAPES])
    words = parser.parse_args()
    shapes = [(int(rows), int(cols)) for rows, cols in (shape.split("x") for shape in words.shape)]
    with torch_threads(1), torch.inference_mode():
        found = run(shapes, words.rounds)
    head = [
        "Time over the bit-proportional estimate and over the uniform layer of 4 bits (quartiles); below 1 is faster.",
        "",
        "| subject | batch | input | us of 1 / 2 / 4 / 8 bits | rows | bits | us | x estimate | x 4 bits | meets |",
        "|---|---:|---|---|---|---:|---:|---:|---:|---|",
    ]
    rule = f"Meets: within {MOST_RATIO} of the estimate, and faster than 4 bits where the average is below 2."
    command = shlex.join(["python", "benchmarks/mixed_rows.py", *sys.argv[1:]])
    shares = {str(average): dict(zip(map(str, WIDTHS), of, strict=True)) for average, of in SHARES.items()}
    data = {"shares": shares, "rows": [asdict(one) | {"meets": one.meets} for one in found]}
    write("mixed_rows", command, data, "\n".join([*head, *map(line, found), "", rule]))


if __name__ == "__main__":
    main()
