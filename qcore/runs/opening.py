"""Opening a run's directory: a new one, or one to go on with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcore.errors import QcoreError, UsageError
from qcore.runs.config import changed_options, make_run_config
from qcore.runs.files import atomic_write_json, make_folder, remove_stale
from qcore.runs.planning import Plan, describe_arms, describe_data, make_plan, settings_of
from qcore.runs.process import now, this_process
from qcore.runs.provenance import provenance
from qcore.runs.rundir import Run, resume_hint
from qcore.runs.worker import make_fabric

if TYPE_CHECKING:
    from qcore.plugins import Framework

__all__ = ["add_local_plugins", "open_new", "plan_new", "plan_rest", "reopen"]

FACTS = ("started", "command", "versions", "plugins", "git", "device", "backends")
"""What a resumed run keeps from its start; those of each time it was resumed are listed beside."""


def plan_new(values: Mapping[str, Any], framework: Framework, out: Path | str | None) -> Plan:
    """Plan a run and refuse what cannot be started; writes nothing.

    Raises:
        UsageError: the device is not here, or ``out`` is there already and is not empty.
        QcoreError: what the plan refuses.
    """
    made = make_plan(values, framework, out)
    if made.config.device != "cpu":
        make_fabric(made.config.device, made.config.precision)  # before there is a directory that none can resume
    if out is not None:
        _refuse_used(made.out)
    return made


def open_new(
    values: Mapping[str, Any], framework: Framework, out: Path | str | None, command: Sequence[str] | None
) -> tuple[Plan, Run]:
    """Plan a run as ``plan_new`` does and make its directory, with a ``run.json`` that says it is running.

    Raises:
        QcoreError: what ``plan_new`` refuses, or a directory that cannot be made.
    """
    made = plan_new(values, framework, out)
    if out is None:
        made = replace(made, out=_fresh(made.out))
    else:
        make_folder(made.out)
    atomic_write_json(made.out / "run.json", _record(made, command))
    return made, Run(made.out)


def plan_rest(values: Mapping[str, Any], run: Run, framework: Framework) -> Plan:
    """Plan the run anew from its own record and refuse what cannot be gone on with; writes nothing.

    Raises:
        UsageError: it runs already; ``values``, the method's options or the data are not those it started with; or a
            job is left to do, and the run's device is not here.
    """
    record = run.record
    if run.status == "running":
        raise UsageError(
            f"{run.path} is being run by process {record['pid']} on {record['host']}",
            f'wait for it; if it was lost with its machine, set "status" to "interrupted" in {run.path / "run.json"}',
        )
    add_local_plugins(record, framework)
    made = make_plan({**record["config"], **values}, framework, run.path)
    record["config"].setdefault("backend", made.config.backend)  # older records do not tell it: any will do
    changed = _changes(record, _identity(made))
    if changed:
        raise UsageError(
            f"{run.path} was started with other options or data:\n  " + "\n  ".join(changed),
            "resume it with the same, or start a new run",
        )
    _check_device(made, run)
    return made


def reopen(
    values: Mapping[str, Any], run: Run, framework: Framework, command: Sequence[str] | None
) -> tuple[Plan, Run]:
    """Plan the run anew as ``plan_rest`` does and say that it is running again.

    Raises:
        QcoreError: what ``plan_rest`` refuses, or a directory that cannot be written to.
    """
    made, record = plan_rest(values, run, framework), run.record
    fresh = _record(made, command)
    remove_stale(run.path)
    kept = {key: record[key] for key in FACTS}
    again = {key: fresh[key] for key in FACTS}
    atomic_write_json(run.path / "run.json", {**fresh, **kept, "resumed": [*record["resumed"], again]})
    return made, run


def _changes(record: Mapping[str, Any], fresh: Mapping[str, Any]) -> list[str]:
    """Return a line for each thing that decides the numbers and is not as it was."""
    changed = changed_options(make_run_config(fresh["config"]), make_run_config(record["config"]))
    then, now_ = record["settings"], fresh["settings"]
    stated = {**record["config"]["settings"], **fresh["config"]["settings"]}
    changed += [
        f"default of settings.{key}: {then.get(key)!r} then, {now_.get(key)!r} now"
        for key in sorted({*then, *now_} - set(stated))
        if then.get(key) != now_.get(key)
    ]
    digests = record["data"]["digest"], fresh["data"]["digest"]
    if digests[0] != digests[1]:
        changed.append(f"data: {digests[0][:19]} then, {digests[1][:19]} now")
    if record["arms"] != fresh["arms"] or record["folds"] != fresh["folds"]:
        changed.append("arms or folds: the plugin now makes others")
    return changed


def _check_device(made: Plan, run: Run) -> None:
    """Refuse a run that has a job left to do and whose device is not here."""
    device = made.config.device
    if device == "cpu" or not made.left(run):
        return
    try:
        make_fabric(device, made.config.precision)
    except UsageError as error:
        raise UsageError(
            f"{run.path} was started with --device {device}, and there is no such device here: {error.message}",
            "resume it on a machine that has one, or start a new run",
        ) from error


def _fresh(out: Path) -> Path:
    """Make and return ``out``, or the first of ``out-2``, ``out-3``, ... that is not taken."""
    make_folder(out.parent)
    for number in itertools.count(1):
        path = out if number == 1 else out.with_name(f"{out.name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise QcoreError(f"cannot make {path}: {error.strerror or error}", "choose another with --out") from error
        return path
    raise AssertionError("counting ends nowhere")


def _refuse_used(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        is_run = (out / "run.json").is_file()
        raise UsageError(f"{out} exists and is not empty", resume_hint(out) if is_run else "choose another with --out")


def add_local_plugins(record: Mapping[str, Any], framework: Framework) -> None:
    """Load the plugins that the run of ``record`` took from files, unless they are here."""
    here = {status.name for status in framework.plugins if status.status == "loaded"}
    for address, name in record["framework"]["added"]:
        if name not in here:
            framework.add(address, name)


def _record(plan: Plan, command: Sequence[str] | None) -> dict[str, Any]:
    return {
        "schema": 1,
        "status": "running",
        "error": None,
        "started": now(),
        "ended": None,
        **this_process(),
        **_identity(plan),
        "framework": plan.work.framework.recipe(),
        **provenance(plan.work.framework, list(command) if command is not None else None),
        "resumed": [],
    }


def _identity(plan: Plan) -> dict[str, Any]:
    """Return what is run, and on what."""
    work = plan.work
    return {
        "plugin": plan.config.plugin,
        "task": plan.config.task,
        "metric": work.task.metric,
        "higher_is_better": work.task.higher_is_better,
        "arms": describe_arms(plan.arms),
        "seeds": list(plan.config.seeds),
        "folds": [fold.index for fold in work.folds],
        "config": plan.config.model_dump(mode="json"),
        "settings": settings_of(work.method),
        "data": describe_data(work.task),
    }
