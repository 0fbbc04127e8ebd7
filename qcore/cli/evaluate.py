"""``qcore eval``: score the saved models of a run again, or one model on a file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qcore.cli.console import make_table, print_data, show
from qcore.cli.options import Backend, Json
from qcore.cli.session import Session, session_of
from qcore.errors import DataError, UsageError

if TYPE_CHECKING:
    from qcore.runs.rundir import Job, Run

__all__ = ["evaluate"]


def evaluate(
    context: typer.Context,
    subject: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="A run's directory, or a model file.")],
    data: Annotated[Path | None, typer.Option("--data", help="For a model: features and target.")] = None,
    target: Annotated[
        str | None, typer.Option("--target", help="For a model: the column it predicts.", show_default="y")
    ] = None,
    backend: Backend = "auto",
    json: Json = False,
) -> None:
    """Score saved models again: all of a run on their test folds, or one model on a file.

    A run fails (exit code 1) if a model is missing or damaged, or no longer gives the score that was recorded.
    """
    session = session_of(context)
    if not subject.exists():
        raise UsageError(f"there is nothing at {subject}", "name a run's directory, or a model file")
    if subject.is_dir():
        from qcore.runs import Run

        run = Run(subject)
        if data is not None or target is not None:
            hint = "leave out --data and --target, or name the model.safetensors of one of its jobs"
            raise UsageError("a run is scored on its own data", hint)
        _evaluate_run(session, run, backend, json=json)
        return
    if data is None:
        raise UsageError("a model is scored on a file", "name it with --data, and its column with --target")
    scores = score_model(session, subject, data, target or "y", backend)
    if json:
        print_data(scores)
    else:
        rows = [(name, f"{value:.6f}") for name, value in scores.items()]
        show(make_table(["metric", {"header": "score", "justify": "right"}], rows))


def score_model(session: Session, model: Path, data: Path, target: str, backend: str) -> dict[str, float]:
    """Return the scores of one model file on the rows of a file.

    Raises:
        UsageError: a column is missing, the target holds classes that the model does not know, or the model predicts
            several values a sample.
    """
    from qcore.export import inspect, load
    from qcore.tasks.table import Table
    from qcore.training import outputs

    registry = session.registry
    file = inspect(model)
    if several := file.extra.get("targets"):
        values = f"{len(several)} values a sample ({several[0]}, ...)"
        hint = "qcore eval RUN scores the models of a run on its own data"
        raise UsageError(f"{model} predicts {values}, and a file is scored by one column", hint)
    network = load(model, backend=backend, registry=registry)
    features = list(file.extra.get("features") or ())
    inputs = Table.read_features(data, features)
    options = {"data": str(data), "target": target, "features": features, "problem": file.extra.get("problem", "auto")}
    task: Table = registry.make("task", "core/table", **options)
    found = task.load()
    targets = found.targets
    if found.problem == "classification":
        targets = _as_known_classes(targets, found.class_names, list(file.extra.get("classes") or found.class_names))
    return task.scores(outputs(network, inputs), targets)


def _as_known_classes(targets: Any, names: tuple[str, ...], known: list[str]) -> Any:
    """Return class indices of a file as the model numbers them."""
    import torch

    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(f"the model knows no class {', '.join(unknown)}", f"it knows: {', '.join(known)}")
    return torch.tensor([list(known).index(name) for name in names])[targets]


def _evaluate_run(session: Session, run: Run, backend: str, *, json: bool) -> None:
    from qcore.runs.report.text import UNKNOWN

    def number(value: float | None) -> str:
        return UNKNOWN if value is None else f"{value:.6f}"

    rows = list(score_run(session, run, backend))
    changed = [row for row in rows if not row["same"]]
    if json:
        print_data(rows)
    else:
        numbers = ({"header": name, "justify": "right"} for name in ("recorded", "now"))
        columns: list[Any] = ["arm", "fold", "seed", *numbers, ""]
        cells = [
            (r["arm"], r["fold"], r["seed"], number(r["recorded"]), number(r["now"]), r["problem"] or "") for r in rows
        ]
        show(make_table(columns, cells))
        show(f"{len(rows) - len(changed)} of {len(rows)} models give the score that was recorded")
    if changed:
        raise typer.Exit(1)


def score_run(session: Session, run: Run, backend: str) -> Iterator[dict[str, Any]]:
    """Yield a row for each job: its recorded score and that of its model file now, or the problem that it has none.

    Raises:
        DataError: the data are not those of the run.
    """
    from qcore.runs.opening import add_local_plugins
    from qcore.runs.planning import make_work

    add_local_plugins(run.record, session.framework)
    work = make_work(run.config, session.framework)
    if work.task.data.digest != run.record["data"]["digest"]:
        raise DataError(f"the data of {run.path} have changed since it was started", "restore them, or score one model")
    for job in run.jobs():
        recorded = run.result(job)
        if recorded is None:
            yield _row(job, work.task.metric, run.problem(job))
        else:
            yield _score_job(session, run, job, work, recorded, backend)


def _score_job(
    session: Session, run: Run, job: Job, work: Any, recorded: dict[str, Any], backend: str
) -> dict[str, Any]:
    import math

    from qcore.export import load
    from qcore.training import outputs

    task = work.task
    network = load(run.folder(job) / "model.safetensors", backend=backend, registry=session.registry)
    test = work.folds[job.fold].test
    now = task.scores(outputs(network, task.data.inputs[test]), task.data.targets[test])
    before = recorded["scores"]
    # Kernels that sum in floats may differ in the last bits from one machine to the next, and scores with them.
    same = all(math.isclose(now[name], before[name], rel_tol=1e-4, abs_tol=1e-6) for name in before)
    return _row(job, task.metric, None if same else "differs", before[task.metric], now)


def _row(
    job: Job, metric: str, problem: str | None, recorded: float | None = None, now: dict[str, float] | None = None
) -> dict[str, Any]:
    return {
        "arm": job.arm,
        "fold": job.fold,
        "seed": job.seed,
        "metric": metric,
        "recorded": recorded,
        "now": None if now is None else now[metric],
        "same": problem is None,
        "problem": problem,
        "scores": now,
    }
