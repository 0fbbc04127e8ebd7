"""``qcore bench``: time packed layers, or a whole model, beside torch's float layers and installed peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qcore.cli.console import make_table, print_data, show
from qcore.cli.options import Backend, Json
from qcore.cli.session import Session, session_of
from qcore.errors import UsageError
from qcore.measure.bench.peers import choose_peers
from qcore.measure.bench.plan import (
    BATCHES,
    BITS,
    MODEL_BATCHES,
    SHAPES,
    Shape,
    parse_counts,
    parse_sample,
    parse_weights,
)

if TYPE_CHECKING:
    from qcore.measure.bench.layers import Options
    from qcore.measure.bench.result import Report

__all__ = ["bench"]


def bench(
    context: typer.Context,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            metavar="INxOUT",
            help="A layer's input and output features; repeatable (2560x6912, 4096x4096, 1536x640, 640x320).",
        ),
    ] = None,
    batch: Annotated[
        str | None, typer.Option("--batch", metavar="LIST", help="Samples a call (1,8,64,256; of a model 1,64).")
    ] = None,
    bits: Annotated[
        str | None, typer.Option("--bits", metavar="LIST", help="Widths of weights: ternary, 1 to 8 (ternary,4,8,1).")
    ] = None,
    group_size: Annotated[
        int | None, typer.Option("--group-size", metavar="N", help="A scale for each N columns, not for each row.")
    ] = None,
    float_input: Annotated[
        bool, typer.Option("--float-input", help="Leave activations float: weight-only layers.")
    ] = False,
    model: Annotated[Path | None, typer.Option("--model", metavar="FILE", help="Time this model file instead.")] = None,
    sample: Annotated[
        str | None, typer.Option("--input", metavar="SHAPE", help="With --model: shape of a sample, such as 3x32x32.")
    ] = None,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="Where all run: cpu, cuda or cuda:1.")
    ] = "cpu",
    threads: Annotated[int, typer.Option("--threads", metavar="N", min=1, help="Threads that all use.")] = 1,
    rounds: Annotated[int, typer.Option("--rounds", metavar="N", min=2, help="Turns that each takes.")] = 15,
    cold: Annotated[
        bool, typer.Option("--cold", help="Let weights stream from memory: copies that exceed the caches, in turn.")
    ] = False,
    peers: Annotated[
        str | None, typer.Option("--peers", metavar="LIST", help="Peers or packages, such as fbgemm,openvino (all).")
    ] = None,
    no_peers: Annotated[bool, typer.Option("--no-peers", help="Only ours and torch's float layer.")] = False,
    backend: Backend = "auto",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write a .json or .md file.")] = None,
    json: Json = False,
) -> None:
    """Time packed layers, or a whole model, beside torch fp32 (bf16 on a GPU) and the peers that are installed.

    All take turns; each is checked first. Nothing but torch is needed.
    """
    session = session_of(context)
    if out is not None and out.suffix not in (".json", ".md"):
        raise UsageError(f"{out}: a benchmark is written as .json or .md")
    if no_peers and peers is not None:
        raise UsageError("--peers and --no-peers contradict each other")
    chosen = choose_peers("" if no_peers else peers, device.partition(":")[0])
    layer_options = {"--shape": shape, "--bits": bits, "--group-size": group_size, "--float-input": float_input or None}
    _check_subject(model, layer_options, sample)

    def options() -> Options:
        from qcore.measure.bench.device import Device
        from qcore.measure.bench.layers import Options

        return Options(rounds, threads, backend, chosen, cold, session.registry, Device.named(device))

    if model is None:
        report = _layers(session, shape, batch, bits, group_size, options, float_input=float_input)
    else:
        report = _model(session, model, batch, sample, options)
    _give(session, report, out, json=json)


def _check_subject(model: Path | None, layer_options: Mapping[str, object], sample: str | None) -> None:
    given = [name for name, value in layer_options.items() if value is not None]
    if model is not None and given:
        raise UsageError(f"{given[0]} is for layers, not for --model", "time one or the other")
    if model is None and sample is not None:
        raise UsageError("--input is for --model", "a layer's input follows from --shape")


def _layers(
    session: Session,
    shape: list[str] | None,
    batch: str | None,
    bits: str | None,
    group_size: int | None,
    options: Callable[[], Options],
    *,
    float_input: bool,
) -> Report:
    shapes = tuple(dict.fromkeys(Shape.parse(text) for text in shape)) if shape else SHAPES
    batches = BATCHES if batch is None else parse_counts(batch, "--batch")
    weights = parse_weights(bits if bits is not None else BITS, group_size, float_input=float_input)
    from qcore.measure.bench.layers import bench_layers  # torch; not before the words make sense

    return bench_layers(shapes, batches, weights, options(), session.remark)


def _model(
    session: Session, model: Path, batch: str | None, sample: str | None, options: Callable[[], Options]
) -> Report:
    batches = MODEL_BATCHES if batch is None else parse_counts(batch, "--batch")
    sizes = None if sample is None else parse_sample(sample)
    from qcore.measure.bench.models import bench_model

    return bench_model(model, batches, sizes, options(), session.remark)


def _give(session: Session, report: Report, out: Path | None, *, json: bool) -> None:
    from rich.text import Text

    from qcore.measure.bench.table import cells, columns, heading, left_out, markdown
    from qcore.runs.files import atomic_write, atomic_write_json

    if out is not None:
        if out.suffix == ".json":
            atomic_write_json(out, report.as_dict())
        else:
            atomic_write(out, markdown(report, "qcore bench"))
        session.remark(f"{len(report.rows)} rows in {out}")
    if json:
        print_data(report.as_dict())
    elif out is None:
        heads = [
            {"header": name, "justify": "left" if name in ("layer", "contender") else "right"}
            for name in columns(report)
        ]
        show(Text("\n".join(heading(report)) + "\n"))
        show(make_table(heads, [cells(row) for row in report.rows if row.reason is None]))
        for line in left_out(report):
            show(Text(f"left out: {line}"))
