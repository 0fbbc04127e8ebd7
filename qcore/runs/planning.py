"""Plan: a run before it starts. Everything that can be refused is refused here, before any training."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcore.errors import BackendError, PluginError, UnknownNameError, UsageError, did_you_mean
from qcore.runs.config import RunConfig, make_run_config
from qcore.runs.rundir import Job, Run

if TYPE_CHECKING:
    from qcore.methods.base import Arm, Method
    from qcore.plugins import Framework
    from qcore.tasks.base import Task
    from qcore.tasks.splits import Fold

__all__ = ["Plan", "Work", "make_plan", "make_work", "resolve_method"]

SPLIT_SEED = 0
"""Folds are the same for all seeds: a seed decides initialisation and order, not the data."""


@dataclass(frozen=True)
class Work:
    """What every job of a run needs, made anew in each process from the run's config."""

    framework: Framework
    config: RunConfig
    method: Method
    task: Task
    folds: Sequence[Fold]


@dataclass(frozen=True)
class Plan:
    """A run before it starts.

    Attributes:
        work: method, task and folds.
        arms: what is compared, each after the arms that it needs.
        out: the run's directory.
    """

    work: Work
    arms: tuple[Arm, ...]
    out: Path

    @property
    def config(self) -> RunConfig:
        """The run's options."""
        return self.work.config

    @property
    def jobs(self) -> list[Job]:
        """All jobs in the order in which one process does them: by seed, then fold, then arm."""
        folds = [fold.index for fold in self.work.folds]
        return [Job(seed, fold, arm.name) for seed in self.config.seeds for fold in folds for arm in self.arms]

    def needs(self, job: Job) -> list[Job]:
        """Return the jobs whose models ``job`` builds on."""
        arm = next(arm for arm in self.arms if arm.name == job.arm)
        return [Job(job.seed, job.fold, name) for name in arm.needs]

    def left(self, run: Run) -> list[Job]:
        """Return the jobs that ``run`` has no result of."""
        return [job for job in self.jobs if run.result(job) is None]

    @property
    def workers(self) -> int:
        """Number of processes: what was asked for, or the cores there are, and at most one a job."""
        asked = self.config.workers
        return min(_cores() if asked == "auto" else asked, len(self.jobs))

    def describe(self) -> dict[str, Any]:
        """Return the plan as plain JSON data: what ``qcore run --dry-run`` prints."""
        data = self.work.task.data
        return {
            "config": {**self.config.model_dump(mode="json"), "settings": settings_of(self.work.method)},
            "method": self.work.method.spec_id,
            "arms": describe_arms(self.arms),
            "task": describe_data(self.work.task),
            "folds": [
                {"fold": f.index, "train": len(f.train), "validation": len(f.validation), "test": len(f.test)}
                for f in self.work.folds
            ],
            "samples": len(data),
            "jobs": len(self.jobs),
            "workers": self.workers,
            "paths": {"out": str(self.out), "summary": str(self.out / "summary.json")},
        }


def make_plan(
    values: Mapping[str, Any], framework: Framework, out: Path | str | None = None, now: datetime | None = None
) -> Plan:
    """Resolve and check everything that a run needs, data included.

    Args:
        values: options of ``RunConfig``; ``plugin`` may be a plugin's or a method's name or a path, ``task`` may be
            missing (the method's default), ``backend`` may be a bare name.
        framework: where names are looked up.
        out: the run's directory; None makes ``runs/<method>-<task>-<UTC time>``.
        now: the time in that name.

    Raises:
        BackendError: the named backend is not available.
        QcoreError: unknown names, bad options, missing or bad data, folds that cannot be made.
    """
    known = dict(values)
    method = resolve_method(framework, str(known.get("plugin") or ""))
    known["plugin"] = method
    task = known.get("task") or framework.registry.get("method", method).details()["default_task"]
    known["task"] = framework.registry.get("task", str(task)).id
    known["backend"] = _named_backend(str(known.get("backend") or "auto"), framework)
    work = make_work(make_run_config(known), framework)
    return Plan(work, select_arms(work.method), Path(out) if out is not None else _default_out(work, now))


def make_work(config: RunConfig, framework: Framework) -> Work:
    """Make method, task and folds; reads and checks the data."""
    from qcore.tasks.splits import make_folds

    method = framework.registry.make("method", config.plugin, **config.settings)
    method.spec_id, method.registry = config.plugin, framework.registry
    task = framework.registry.make("task", config.task, **config.task_options)
    task.spec_id = config.task
    method.check(task)
    folds = make_folds(task, config.folds, config.validation, SPLIT_SEED)
    return Work(framework, config, method, task, folds)


def _named_backend(name: str, framework: Framework) -> str:
    """Return the backend's id, or ``auto``; raise BackendError now, not after the first training, if it is absent."""
    if name == "auto":
        return name
    backend = framework.registry.get("backend", name).id
    probe = framework.registry.make("backend", backend).probe()
    if not probe.available:
        raise BackendError(f"the backend {backend} is not available: {probe.reason}", probe.details.get("hint"))
    return backend


def resolve_method(framework: Framework, reference: str) -> str:
    """Return the id of the method that ``reference`` means.

    It is a method's id or bare name, or a plugin's name or path: then its method of the same name, or its only one.

    Raises:
        UnknownNameError: nobody offers it.
        PluginError: it names a plugin that could not be loaded, or that has no method.
    """
    if not reference:
        raise UsageError("a run needs a method", "name one with --plugin; 'qcore list methods' shows them")
    methods = framework.registry.list("method")
    if reference in {spec.id for spec in methods}:
        return reference
    if reference.endswith(".py") or reference.startswith(".") or Path(reference).is_dir() and "/" in reference:
        return _only_method(framework, _plugin_at(framework, reference))
    if reference.replace("-", "_") in {status.name for status in framework.plugins} - {"core"}:
        return _only_method(framework, framework.require(reference).name)
    return framework.registry.get("method", reference).id


def select_arms(method: Method) -> tuple[Arm, ...]:
    """Return the arms that the config asks for, with what they need, each after its needs.

    Raises:
        UnknownNameError: the config names an arm that the method has not.
        PluginError: the method's arms need what is not there, or need each other in a circle.
    """
    arms = {arm.name: arm for arm in method.arms()}
    asked = method.config.arms or tuple(arms)
    for name in asked:
        if name not in arms:
            raise UnknownNameError(f"{method.spec_id} has no arm {name!r}", did_you_mean(name, arms))
    wanted: set[str] = set()
    for name in asked:
        _visit(name, arms, wanted, (), method.spec_id)
    placed: list[Arm] = []
    while len(placed) < len(wanted):
        here = {arm.name for arm in placed}
        placed.append(next(a for n, a in arms.items() if n in wanted - here and here.issuperset(a.needs)))
    return tuple(placed)


def describe_arms(arms: Sequence[Arm]) -> list[dict[str, Any]]:
    """Return the arms as plain JSON data."""
    return [
        {"name": arm.name, "summary": arm.summary, "needs": list(arm.needs), "baseline": arm.baseline} for arm in arms
    ]


def describe_data(task: Task) -> dict[str, Any]:
    """Return what identifies a task's data, as plain JSON data."""
    data = task.data
    several = {"targets": list(data.target_names)} if data.target_names else {}
    return {
        "task": task.spec_id,
        "problem": task.problem,
        "metric": task.metric,
        "classes": list(data.class_names),
        **several,
        "samples": len(data),
        "shape": list(data.inputs.shape[1:]),
        "source": data.source,
        "digest": data.digest,
    }


def settings_of(method: Method) -> dict[str, Any]:
    """Return all options of a method, defaults included, as plain JSON data."""
    return method.config.model_dump(mode="json")


def _visit(name: str, arms: Mapping[str, Arm], wanted: set[str], above: tuple[str, ...], owner: str) -> None:
    if name in above:
        raise PluginError(f"{owner}: arms need each other in a circle: {' -> '.join((*above, name))}")
    if name not in arms:
        raise PluginError(f"{owner}: arm {above[-1]!r} needs {name!r}, which is no arm")
    if name not in wanted:
        for need in arms[name].needs:
            _visit(need, arms, wanted, (*above, name), owner)
        wanted.add(name)


def _only_method(framework: Framework, plugin: str) -> str:
    methods = [spec for spec in framework.registry.list("method") if spec.plugin == plugin]
    named_like_it = [spec for spec in methods if spec.name == plugin]
    if len(named_like_it or methods) == 1:
        return (named_like_it or methods)[0].id
    if not methods:
        raise UsageError(f"the plugin {plugin!r} offers no method", "'qcore list methods' shows what can be run")
    ids = ", ".join(spec.id for spec in methods)
    raise UsageError(f"the plugin {plugin!r} offers several methods: {ids}", "name one of them in full")


def _plugin_at(framework: Framework, path: str) -> str:
    file = str(Path(path).resolve())
    known = [status.name for status in framework.plugins if status.status == "loaded" and status.file == file]
    return known[0] if known else framework.use(path).name


def _default_out(work: Work, now: datetime | None) -> Path:
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%S")
    method, task = (name.rpartition("/")[2] for name in (work.config.plugin, work.config.task))
    return Path("runs") / f"{method}-{task}-{stamp}"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
