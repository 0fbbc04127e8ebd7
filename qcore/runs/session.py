"""run: from options to a finished run's directory, started anew or resumed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcore.errors import QcoreError, UsageError
from qcore.runs.process import now
from qcore.runs.provenance import changed_plugins
from qcore.runs.rundir import CHECKPOINT, Job, Run

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from qcore.plugins import Framework
    from qcore.runs.planning import Plan

__all__ = ["plan", "run"]

Progress = Callable[[dict[str, Any]], None]


def plan(
    plugin: str | None = None,
    *,
    task: str | None = None,
    task_options: Mapping[str, Any] | None = None,
    folds: int | None = None,
    seeds: int | Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    validation: float | None = None,
    workers: int | str | None = None,
    latency: bool | None = None,
    calls: int | None = None,
    device: str | None = None,
    backend: str | None = None,
    precision: str | None = None,
    out: Path | str | None = None,
    resume: Path | str | None = None,
    framework: Framework | None = None,
) -> Plan:
    """Resolve and check a run without starting it or going on with it; the options are those of ``run``.

    Raises:
        QcoreError: what ``run`` refuses before any training.
    """
    from qcore.runs.opening import plan_new, plan_rest

    values = {
        "plugin": plugin,
        "task": task,
        "task_options": task_options,
        "folds": folds,
        "seeds": seeds,
        "settings": settings,
        "validation": validation,
        "workers": workers,
        "latency": latency,
        "calls": calls,
        "device": device,
        "backend": backend or os.environ.get("QCORE_BACKEND") or None,
        "precision": precision,
    }
    fw = framework or _default_framework()
    _check_place(out, resume)
    if resume is not None:
        return plan_rest(_given(values), Run(resume), fw)
    return plan_new(_given(values), fw, out)


def run(
    plugin: str | None = None,
    *,
    task: str | None = None,
    task_options: Mapping[str, Any] | None = None,
    folds: int | None = None,
    seeds: int | Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    validation: float | None = None,
    workers: int | str | None = None,
    latency: bool | None = None,
    calls: int | None = None,
    device: str | None = None,
    backend: str | None = None,
    precision: str | None = None,
    out: Path | str | None = None,
    resume: Path | str | None = None,
    report: bool = True,
    progress: Progress | None = None,
    command: Sequence[str] | None = None,
    framework: Framework | None = None,
) -> Run:
    """Train and compare every arm of a method on every fold and seed, and write the evidence into a directory.

    Args:
        plugin: a plugin, a method, or the path of a plugin; with ``resume`` it may be left out, as may all below.
        task: the task; None for the method's default.
        task_options: the task's own options, such as ``{"data": "samples.csv", "target": "label"}``.
        folds: number of folds; None for the data's own, or 5.
        seeds: a count or the seeds themselves; None for the one seed 0.
        settings: the method's own options.
        validation: share of the training part that early stopping looks at; None for 0.15.
        workers: processes, or ``"auto"`` (None): one a core. The numbers do not depend on it.
        latency: whether to measure latency and energy at the end; None for yes.
        calls: timed calls for each arm and batch size; None for 200.
        device: where training runs; None for ``"cpu"``.
        backend: what runs packed layers and fused fake quantization, or ``"auto"``; None for what ``QCORE_BACKEND``
            names, else ``"auto"``.
        precision: ``"32-true"`` (None), or ``"bf16-mixed"`` for products of bfloat16 in training.
        out: the directory; None makes ``runs/<method>-<task>-<UTC time>``. It must be new or empty.
        resume: directory of a run to go on with; options that are given must be those it was started with.
        report: whether to write ``report.html``.
        progress: called with events, dicts with ``kind``: run_started, job_started, epoch, job_finished, run_finished
            or warning.
        command: what was typed, for the record.
        framework: where names are looked up; None for the default.

    Returns:
        The finished run.

    Raises:
        QcoreError: what the plan refuses (before any training); a job that failed; a disk that is full. What was
            finished stands.
        KeyboardInterrupt: after the workers were stopped and the run's status was written.
    """
    values = {
        "plugin": plugin,
        "task": task,
        "task_options": task_options,
        "folds": folds,
        "seeds": seeds,
        "settings": settings,
        "validation": validation,
        "workers": workers,
        "latency": latency,
        "calls": calls,
        "device": device,
        "backend": backend or os.environ.get("QCORE_BACKEND") or None,
        "precision": precision,
    }
    fw = framework or _default_framework()
    _check_place(out, resume)
    opening = _Opening(_given(values), fw, out, resume, command)
    return _Session(*opening.open(), progress or _ignore, report).run()


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _check_place(out: Path | str | None, resume: Path | str | None) -> None:
    if resume is not None and out is not None and Path(out).resolve() != Path(resume).resolve():
        raise UsageError("a resumed run stays in its directory", "leave out --out")


def _default_framework() -> Framework:
    from qcore.plugins import default

    return default()


def _ignore(event: dict[str, Any]) -> None:
    """Do nothing with ``event``."""


@contextmanager
def _backend(name: str) -> Iterator[None]:
    """Make ``name`` the backend of this process, and of the workers it starts, while the context lasts."""
    before = os.environ.pop("QCORE_BACKEND", None)
    os.environ["QCORE_BACKEND"] = name
    try:
        yield
    finally:
        del os.environ["QCORE_BACKEND"]
        if before is not None:
            os.environ["QCORE_BACKEND"] = before


@dataclass
class _Opening:
    """What it takes to open a run; under torchrun rank 0 opens it and the others follow."""

    values: dict[str, Any]
    framework: Framework
    out: Path | str | None
    resume: Path | str | None
    command: Sequence[str] | None

    def open(self) -> tuple[Plan, Run, Fabric | None]:
        from qcore.runs.worker import is_distributed, make_fabric

        if not is_distributed():
            return *self._open(), None
        config = self.values if self.resume is None else {**Run(self.resume).record["config"], **self.values}
        fabric = make_fabric(config.get("device", "cpu"), config.get("precision", "32-true"))
        made = self._open() if fabric.global_rank == 0 else None
        path = fabric.broadcast(str(made[1].path) if made else "")
        return *(made or self._follow(Run(path))), fabric

    def _open(self) -> tuple[Plan, Run]:
        from qcore.runs.opening import open_new, reopen

        if self.resume is not None:
            return reopen(self.values, Run(self.resume), self.framework, self.command)
        return open_new(self.values, self.framework, self.out, self.command)

    def _follow(self, run: Run) -> tuple[Plan, Run]:
        from qcore.runs.planning import make_plan

        return make_plan(run.record["config"], self.framework, run.path), run


class _Session:
    """One process's work on a run."""

    def __init__(self, plan: Plan, run: Run, fabric: Fabric | None, progress: Progress, report: bool) -> None:
        self.plan, self.opened, self.fabric, self.progress, self.report = plan, run, fabric, progress, report
        self.total = len(plan.jobs)
        self.done = set(plan.jobs).difference(plan.left(run))

    def run(self) -> Run:
        """Do what is not done yet, and sum up."""
        with _backend(self.plan.config.backend):
            return self._run()

    def _run(self) -> Run:
        from qcore.runs.execute import execute, follow

        if self.fabric is not None and self.fabric.global_rank:
            follow(self.plan, self.opened, self.fabric)
            return self.opened
        try:
            self._started()
            execute(self.plan, self.opened, self.done, self._forward, self._job_finished, self.fabric)
            self._sum_up()
        except KeyboardInterrupt:
            self._end("interrupted")
            raise
        except Exception as error:  # whatever it is, the record says that the run has ended
            self._end("failed", str(error))
            raise
        return self.opened

    def _end(self, status: str, error: str | None = None) -> None:
        # The disk may be what failed: then the record cannot be written either, and the first error is the one to see.
        with suppress(QcoreError):
            self.opened.update(status=status, error=error, ended=now())

    def _started(self) -> None:
        for job in self.done:  # a kill may have come between a job's result and this
            (self.opened.folder(job) / CHECKPOINT).unlink(missing_ok=True)
        for _, outcome in self.plan.work.framework.call("qcore_run_started", run=self.opened):
            if isinstance(outcome, QcoreError):
                raise outcome
        arms = [arm.name for arm in self.plan.arms]
        self._forward({"kind": "run_started", "path": str(self.opened.path), "arms": arms})

        for name in changed_plugins(self.opened.record):
            self._warn(f"the code of {name} has changed since the run was started: its jobs mix the two")

    def _job_finished(self, job: Job, result: dict[str, Any]) -> None:
        metric = self.plan.work.task.metric
        value = result["scores"][metric]
        where = {"arm": job.arm, "fold": job.fold, "seed": job.seed}
        self._forward({"kind": "job_finished", **where, "metric": metric, "value": value})
        for line in result["extras"].get("warnings", ()):
            self._warn(f"{job}: {line}")
        self._call("qcore_fold_finished", result=result)

    def _sum_up(self) -> None:
        from qcore.runs.summary import summarize

        summary = summarize(self.plan, self.opened)
        self.opened.write_summary(summary)
        self._call("qcore_run_finished", summary=summary)
        if self.report:
            self._write_report()
        self.opened.update(status="done", ended=now())
        self._forward({"kind": "run_finished", "path": str(self.opened.path)})

    def _write_report(self) -> None:
        from qcore.runs.report import write_report

        try:
            write_report(self.opened, self.plan.work.framework)
        except QcoreError as error:
            self._warn(f"the report was not written: {error.message}")

    def _call(self, hook: str, **arguments: Any) -> None:
        for _, outcome in self.plan.work.framework.call(hook, run=self.opened, **arguments):
            if isinstance(outcome, QcoreError):
                self._warn(outcome.message)

    def _warn(self, message: str) -> None:
        self._forward({"kind": "warning", "message": message})

    def _forward(self, event: dict[str, Any]) -> None:
        self.progress({**event, "done": len(self.done), "total": self.total})
