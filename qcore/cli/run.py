"""``qcore run``: train, compare, pack and report the arms of a method."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qcore.cli.console import make_console, make_table, print_data, say, show
from qcore.cli.failures import INTERRUPTED
from qcore.cli.options import Json
from qcore.cli.progress import make_progress
from qcore.cli.session import Session, session_of
from qcore.cli.settings import collect, parse_seeds, parse_workers
from qcore.errors import QcoreError, UsageError

if TYPE_CHECKING:
    from qcore.runs.rundir import Run

__all__ = ["run"]

DATA, SPLIT, OUTPUT = "Data", "Folds and seeds", "Output"


def run(
    context: typer.Context,
    plugin: Annotated[
        str | None,
        typer.Option("--plugin", "-p", metavar="NAME|PATH", help="The method: a plugin, plugin/name, or ./file.py."),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="The task; the method's own if not given.")] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="A csv, parquet or npz file, or a folder of images.", rich_help_panel=DATA),
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="Column to predict.", rich_help_panel=DATA)] = None,
    group: Annotated[
        str | None, typer.Option("--group", help="Column whose values never span folds.", rich_help_panel=DATA)
    ] = None,
    folds_column: Annotated[
        str | None, typer.Option("--folds-column", help="Column with the data's own folds.", rich_help_panel=DATA)
    ] = None,
    folds: Annotated[int | None, typer.Option("--folds", help="Number of folds (5).", rich_help_panel=SPLIT)] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", help="Number of seeds, or the seeds: 0,1,2 (1).", rich_help_panel=SPLIT)
    ] = None,
    validation: Annotated[
        float | None,
        typer.Option("--validation", help="Share of the training part held out (0.15).", rich_help_panel=SPLIT),
    ] = None,
    arms: Annotated[str | None, typer.Option("--arms", metavar="A,B", help="Run these arms alone.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of the method (task.KEY: of the task); repeatable."),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="A TOML file of options.")] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", metavar="NAME", help="Run packed layers on this backend.")
    ] = None,
    workers: Annotated[str | None, typer.Option("--workers", help="Processes, or auto (auto).")] = None,
    device: Annotated[str | None, typer.Option("--device", help="Where training runs: cpu, cuda, auto (cpu).")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Of products in training: 32-true, bf16-mixed (32-true).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run's directory (runs/...).", rich_help_panel=OUTPUT)
    ] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", metavar="DIR", help="Go on with this run.", rich_help_panel=OUTPUT)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved plan; write nothing.", rich_help_panel=OUTPUT)
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 1 if a claim fails.", rich_help_panel=OUTPUT)
    ] = False,
    no_latency: Annotated[
        bool, typer.Option("--no-latency", help="Measure neither latency nor energy.", rich_help_panel=OUTPUT)
    ] = False,
    json: Json = False,
) -> None:
    """Train and compare the arms of a method over folds and seeds; pack, save, measure and report them."""
    task_options = {"data": data, "target": target, "group": group, "folds_column": folds_column}
    flags = {
        "plugin": plugin,
        "task": task,
        "task_options": {key: value for key, value in task_options.items() if value is not None},
        "settings": {"arms": [name.strip() for name in arms.split(",") if name.strip()]} if arms else {},
        "folds": folds,
        "seeds": parse_seeds(seeds),
        "validation": validation,
        "workers": parse_workers(workers),
        "device": device,
        "precision": precision,
        "latency": False if no_latency else None,
        "backend": backend,
        "out": out,
    }
    values = collect(config, flags, assignments or (), os.environ)
    # An empty table says nothing; a resumed run would take it for a change of options.
    given = {key: value for key, value in values.items() if value not in ({}, None)}
    session = session_of(context)
    if dry_run:
        _print_plan(session, given, resume, json=json)
        return
    finished = _run(session, given, resume)
    if os.environ.get("RANK", "0") != "0":  # under torchrun rank 0 alone writes, and prints
        return
    _print_summary(finished, json=json)
    if strict and any(claim["verdict"] == "fails" for claim in finished.summary["claims"]):
        raise typer.Exit(1)


def _print_plan(session: Session, given: Mapping[str, Any], resume: Path | None, *, json: bool) -> None:
    from qcore import runs

    plan = runs.plan(**given, resume=resume, framework=session.framework)
    data = plan.describe()
    left = plan.jobs if resume is None else plan.left(runs.Run(resume))
    if json:
        print_data(data if resume is None else {**data, "left": [asdict(job) for job in left]})
        return
    folds = data["folds"]
    facts = {
        "method": data["method"],
        "task": f"{data['task']['task']}: {data['samples']} samples, {data['task']['metric']}",
        "jobs": f"{len(data['arms'])} arms × {len(folds)} folds × {len(plan.config.seeds)} seeds = {data['jobs']}"
        + ("" if resume is None else f", {len(left)} left to do"),
        "workers": data["workers"],
        "fold 0": ", ".join(f"{folds[0][part]} {part}" for part in ("train", "validation", "test")),
        "directory": data["paths"]["out"],
        "device": plan.config.device,
        "precision": plan.config.precision,
        "backend": plan.config.backend,
    }
    show("\n".join(f"{name:<10} {value}" for name, value in facts.items()))
    arms = [(arm["name"], ", ".join(arm["needs"]), arm["summary"]) for arm in data["arms"]]
    show("")
    show(make_table(["arm", "needs", "about"], arms))
    settings = data["config"]["settings"]
    show("")
    show(make_table(["option", "value"], [(key, value) for key, value in settings.items()]))
    if resume is not None and left:
        show("")
        show(make_table(["left to do", "fold", "seed"], [(job.arm, job.fold, job.seed) for job in left]))


def _run(session: Session, given: Mapping[str, Any], resume: Path | None) -> Run:
    from qcore import runs

    started: list[str] = []
    progress = make_progress(quiet=session.quiet)

    def follow(event: dict[str, Any]) -> None:
        if event["kind"] == "run_started" and event.get("path"):
            started.append(str(event["path"]))
        progress(event)

    try:
        with progress:
            return runs.run(
                **given,
                resume=resume,
                progress=follow,
                command=["qcore", *sys.argv[1:]],
                framework=session.framework,
            )
    except KeyboardInterrupt:
        place = started or ([str(resume)] if resume else [])
        say("interrupted" + (f"; {_how_to_go_on(place[0])}" if place else ""))
        raise typer.Exit(INTERRUPTED) from None
    except QcoreError as error:
        if started and not isinstance(error, UsageError):  # which resuming cannot mend
            error.hint = "\n".join(part for part in (error.hint, _how_to_go_on(started[0])) if part)
        raise


def _how_to_go_on(directory: str) -> str:
    return f"what is finished stands; go on with: qcore run --resume {shlex.quote(directory)}"


def _print_summary(finished: Run, *, json: bool) -> None:
    from qcore.cli.summary_table import arms_table, claims_table, closing_lines

    summary = finished.summary
    if json:
        print_data(summary)
        return
    console = make_console(sys.stdout)
    console.print(arms_table(summary, console.width))
    if summary["claims"]:
        console.print()
        console.print(claims_table(summary["claims"]))
    console.print()
    for line in closing_lines(summary, finished.path):
        console.print(line, soft_wrap=True)
