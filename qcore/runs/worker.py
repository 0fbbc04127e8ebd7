"""A worker process: makes method, task and folds from the run's config, then does one job after another."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, parent_process
from typing import TYPE_CHECKING, Any

from qcore.errors import QcoreError
from qcore.runs.planning import Work, make_work
from qcore.runs.rundir import Job, Run

if TYPE_CHECKING:
    from multiprocessing.queues import Queue

    from lightning_fabric import Fabric

    from qcore.training.devices import Precision

__all__ = ["do", "is_distributed", "make_fabric", "one_thread", "start", "work"]

Events = Callable[[dict[str, Any]], None]
Order = tuple[Mapping[str, Any], Mapping[str, Any], str]


@dataclass
class _Worker:
    work: Work
    run: Run
    fabric: Fabric
    events: Events


_MALLOC_OPTIONS = ((-4, 0), (-1, 2**31 - 1))
"""``M_MMAP_MAX``: no memory apart for large sizes; ``M_TRIM_THRESHOLD``: nothing is given back."""

_order: tuple[Order, Queue[dict[str, Any]]] | None = None
_worker: _Worker | None = None
"""Set in a worker process alone: a pool gives its tasks no other way to find what ``start`` was given."""


def start(order: Order, events: Queue[dict[str, Any]]) -> None:
    """Make this fresh process a worker.

    Args:
        order: the framework's recipe, the run's config and its directory.
        events: where progress goes.
    """
    global _order
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers itself
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # held back while this process was spawned
    _die_with_parent()
    _keep_freed_memory()
    _order = order, events


def work(job: Job) -> dict[str, Any]:
    """Do ``job`` in this worker process."""
    global _worker
    if _order is None:
        raise QcoreError("this process is no worker")
    if _worker is None:  # not in start, whose errors the pool would swallow
        _worker = _make_worker(*_order)
    return do(_worker.work, _worker.run, job, _worker.fabric, _worker.events)


def _make_worker(order: Order, events: Queue[dict[str, Any]]) -> _Worker:
    import torch

    from qcore.plugins import Framework, set_default
    from qcore.runs.config import make_run_config

    torch.set_num_threads(1)
    recipe, values, path = order
    framework = Framework.from_recipe(recipe)
    set_default(framework)
    config = make_run_config(values)
    return _Worker(make_work(config, framework), Run(path), make_fabric(config.device, config.precision), events.put)


def do(work: Work, run: Run, job: Job, fabric: Fabric, events: Events) -> dict[str, Any]:
    """Do ``job``, and name it in whatever goes wrong.

    Raises:
        QcoreError: with the job's name; an error that is no QcoreError leaves its traceback in ``error.txt``.
    """
    from qcore.runs.files import atomic_write
    from qcore.runs.job import run_job

    where = {"arm": job.arm, "fold": job.fold, "seed": job.seed}
    trace = run.folder(job) / "error.txt"
    events({"kind": "job_started", **where})
    try:
        result = run_job(work, run, job, fabric, lambda row: events(_epoch_event(row, where)))
    except QcoreError as error:
        raise type(error)(f"{job}: {error.message}", error.hint) from error
    except Exception as error:  # a method is foreign code
        atomic_write(trace, "".join(traceback.format_exception(error)))
        raise QcoreError(f"{job}: {type(error).__name__}: {error}", f"the traceback is in {trace}") from error
    with suppress(OSError):  # that of an earlier attempt
        trace.unlink(missing_ok=True)
    return result


@contextmanager
def one_thread() -> Iterator[None]:
    """Give torch one thread while the context lasts: what a worker process has, so that results are the same."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def make_fabric(device: str, precision: Precision) -> Fabric:
    """Return a launched Fabric for ``device`` that trains in ``precision``."""
    from qcore.training.devices import make_fabric as make

    return make(device, precision)


def is_distributed() -> bool:
    """Return whether torchrun started this process beside others."""
    from qcore.training.devices import world_size

    return world_size() > 1


def _epoch_event(row: Mapping[str, Any], where: Mapping[str, Any]) -> dict[str, Any]:
    shown = {key: row[key] for key in ("phase", "epoch", "epochs", "metric", "train_loss")}
    return {"kind": "epoch", **where, **shown, "value": row["validation"]}


def _keep_freed_memory() -> None:
    """Let the C library hold on to what was freed: at each step tensors of the same sizes are wanted again.

    Glibc gives large ones back to the system, which then hands out cleared pages one by one.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    for option, value in _MALLOC_OPTIONS:
        mallopt(option, value)


def _die_with_parent() -> None:
    """End this process when its parent is killed, so that no orphan writes into a run that is being resumed."""
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
