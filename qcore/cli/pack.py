"""``qcore pack``: store the weights of a model file in as few bits as they need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qcore.cli.console import print_data, show
from qcore.cli.options import Json, ModelFile
from qcore.cli.session import session_of
from qcore.errors import UsageError

__all__ = ["pack"]


def pack(
    context: typer.Context,
    model: ModelFile,
    rules: Annotated[
        list[str] | None,
        typer.Option(
            "--rule",
            metavar="PATTERN=QUANTIZER",
            help="Quantize these layers first, such as 'type:Linear=core/int(bits=4)'; 'none' keeps them; repeatable.",
        ),
    ] = None,
    fold: Annotated[
        bool, typer.Option("--fold", help="Fold batch norms into the packed layers that they directly follow.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The new file [MODEL.packed.safetensors].")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
    json: Json = False,
) -> None:
    """Quantize a float model's weights by rules, pack them, and write a new file."""
    from qcore.export import inspect, load, save
    from qcore.nn import quantize

    registry = session_of(context).registry
    target = out or model.with_name(f"{model.stem}.packed.safetensors")
    if target.exists() and not force:
        raise UsageError(f"{target} exists", "choose another name with --out, or --force")
    before = inspect(model)
    network = load(model, registry=registry)
    if rules:
        network = quantize(network, parse_rules(rules), registry=registry)
    if not rules and not before.layers:
        raise UsageError(
            f"{model} holds no quantized layer", "say how to quantize it, such as --rule 'type:Linear=core/int(bits=8)'"
        )
    metadata = {**before.extra, "packed_from": model.name}
    written = save(network, target, fold=fold, metadata=metadata, registry=registry)
    after = inspect(written)
    if json:
        sizes = {"nbytes": after.nbytes, "nbytes_before": before.nbytes}
        print_data({"file": str(written), **sizes, "folded": after.folded})
        return
    show(f"{written}: {after.nbytes:,} bytes, was {before.nbytes:,} ({before.nbytes / after.nbytes:.2f}×)")
    if fold:
        show(f"batch norms folded: {', '.join(after.folded) or 'none (qcore explain says why)'}")


def parse_rules(rules: list[str]) -> dict[str, str | None]:
    """Return rules in their order: a pattern and a quantizer, or None for a layer that stays as it is.

    Raises:
        UsageError: one of them is malformed.
    """
    parsed: dict[str, str | None] = {}
    for rule in rules:
        pattern, sign, quantizer = rule.partition("=")
        if not sign or not pattern or not quantizer:
            raise UsageError(f"--rule {rule}: not of the form PATTERN=QUANTIZER", "such as type:Linear=core/int")
        parsed[pattern] = None if quantizer == "none" else quantizer
    return parsed
