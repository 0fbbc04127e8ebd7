"""Doing the jobs of a run: in this process, or in several that are started afresh."""

from __future__ import annotations

import signal
import sys
import types
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from queue import Empty
from typing import TYPE_CHECKING, Any

from qcore.errors import QcoreError
from qcore.runs import worker
from qcore.runs.planning import Plan
from qcore.runs.rundir import Job, Run

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from lightning_fabric import Fabric

__all__ = ["Progress", "execute", "follow"]

Progress = Callable[[dict[str, Any]], None]
Finished = Callable[[Job, dict[str, Any]], None]

POLL_S = 0.2


def execute(
    plan: Plan, run: Run, done: set[Job], progress: Progress, finished: Finished, fabric: Fabric | None = None
) -> None:
    """Do every job of ``plan`` that is not in ``done``, each after the jobs it needs.

    Args:
        plan: the jobs and their needs.
        run: where results go.
        done: jobs that need not be done; grows.
        progress: called with the events of jobs.
        finished: called in this process with each finished job and its result.
        fabric: of rank 0 under torchrun: then all ranks do each job together, in this process.

    Raises:
        QcoreError: a job failed; the others that were running have finished. Or a worker process died.
        KeyboardInterrupt: after the workers were stopped.
    """
    if fabric is not None:
        fabric.broadcast(sorted(done))
    if len(done) == len(plan.jobs):
        return
    if plan.workers > 1 and fabric is None:
        _Pool(plan, run, done, progress, finished).execute()
        return
    with worker.one_thread():
        fabric = fabric or worker.make_fabric(plan.config.device, plan.config.precision)
        for job in plan.jobs:
            if job not in done:
                result = worker.do(plan.work, run, job, fabric, progress)
                done.add(job)
                finished(job, result)
                fabric.barrier()


def follow(plan: Plan, run: Run, fabric: Fabric) -> None:
    """Do this rank's part of the jobs that rank 0 does; rank 0 alone writes."""
    done: set[Job] = set(fabric.broadcast([]))
    with worker.one_thread():
        for job in plan.jobs:
            if job not in done:
                worker.do(plan.work, run, job, fabric, lambda event: None)
                fabric.barrier()


class _Pool:
    """Processes that do jobs as soon as what these need is done."""

    def __init__(self, plan: Plan, run: Run, done: set[Job], progress: Progress, finished: Finished) -> None:
        self.plan, self.run, self.done, self.progress, self.finished = plan, run, done, progress, finished
        self.waiting = [job for job in plan.jobs if job not in done]
        self.running: dict[Future[dict[str, Any]], Job] = {}
        self.failure: BaseException | None = None
        self.before = set(active_children())

    def execute(self) -> None:
        """Do all jobs."""
        context = get_context("spawn")
        self.events = context.Queue()
        order = (self.plan.work.framework.recipe(), self.plan.config.model_dump(mode="json"), str(self.run.path))
        self.executor = ProcessPoolExecutor(
            self.plan.workers, context, initializer=worker.start, initargs=(order, self.events)
        )
        try:
            self._loop()
        except BrokenProcessPool:
            jobs = "; ".join(map(str, self.running.values()))
            raise QcoreError(
                f"a worker process died during {jobs}", "it may have run out of memory: try fewer --workers"
            ) from None
        except BaseException:
            self._stop()
            raise
        finally:
            self.executor.shutdown(wait=True, cancel_futures=True)
            self.events.close()

    def _loop(self) -> None:
        while self.waiting or self.running:
            if self.failure is None:
                self._submit()
            elif not self.running:
                break
            ended, _ = wait(self.running, timeout=POLL_S, return_when=FIRST_COMPLETED)
            self._forward_events()
            for future in ended:
                self._take(future)
        if self.failure is not None:
            raise self.failure

    def _submit(self) -> None:
        ready = [job for job in self.waiting if self.done.issuperset(self.plan.needs(job))]
        for job in ready[: self.plan.workers - len(self.running)]:
            with _no_main_module(), _interrupts_held():
                self.running[self.executor.submit(worker.work, job)] = job
            self.waiting.remove(job)

    def _take(self, future: Future[dict[str, Any]]) -> None:
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            raise error
        job = self.running.pop(future)
        if error is not None:
            self.failure = self.failure or error
            return
        self.done.add(job)
        self.finished(job, future.result())

    def _forward_events(self) -> None:
        while True:
            try:
                event = self.events.get_nowait()
            except Empty:
                return
            # Events and results come by different ways: one may be late, and is then about a job that is over.
            if Job(event["seed"], event["fold"], event["arm"]) not in self.done:
                self.progress(event)

    def _stop(self) -> None:
        children: set[BaseProcess] = set(active_children()) - self.before
        for child in children:
            child.terminate()


@contextmanager
def _no_main_module() -> Iterator[None]:
    """Hide the main module while a process is spawned.

    A spawned process imports the caller's script again, which without a guard would start the run again, and which a
    script from standard input does not survive. Workers need nothing of it.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back while a process is spawned: it inherits that until it ignores them, and here none is lost."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
