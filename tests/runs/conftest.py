from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qcore.plugins import Framework
from qcore.runs import Run, run

TINY: dict[str, Any] = {
    "task": "core/breast_cancer",
    "folds": 2,
    "settings": {"epochs": 2, "hidden": [8], "batch_size": 64},
    "workers": 1,
    "calls": 2,
    "latency": False,
    "report": False,
}
"""A run that takes well under a second."""

SCRIPT = """
import sys
from qcore.plugins import Framework
from qcore.runs import run

settings = {"epochs": 2, "hidden": [8], "trouble": sys.argv[4]}
options = {"task": "core/breast_cancer", "folds": 2, "latency": False, "report": False, "settings": settings}
fw = Framework(no_plugins=True, config={})
run(sys.argv[1], out=sys.argv[2], workers=int(sys.argv[3]), framework=fw, **options)
"""

PLUGIN = """
from __future__ import annotations

import os
import signal
import time

from qcore.hookspecs import hookimpl
from qcore.registry import MethodSpec


@hookimpl
def qcore_methods():
    return [MethodSpec(name="probe", target=__name__ + ":Probe", config=__name__ + ":ProbeConfig", summary="for tests")]


@hookimpl
def qcore_fold_finished(run, result):
    if os.environ.get("PROBE_KILL"):
        os.kill(os.getpid(), signal.SIGKILL)
    if os.environ.get("PROBE_INTERRUPT"):
        raise KeyboardInterrupt


from qcore.methods.config import MethodConfig


class ProbeConfig(MethodConfig):
    trouble: str = ""


def __getattr__(name):
    if name != "Probe":
        raise AttributeError(name)
    from qcore.methods import Arm, Claim, Method, Verdict

    class Probe(Method):
        Config = ProbeConfig

        def arms(self):
            return [
                Arm("float", "base", baseline=True),
                Arm("again", "the first once more, trained further", needs=("float",)),
                Arm("twin", "as the first"),
            ]

        def build(self, arm, task, generator, sources):
            self.meet(arm.name)
            return sources["float"] if arm.name == "again" else self.network(task, generator)

        def phases(self, arm):
            return [self.main_phase()]

        def observe(self, arm, model, inputs):
            import torch

            return {"first": inputs[:, 0], "even": torch.arange(len(inputs)) % 2 == 0}

        def claims(self):
            def check(evidence):
                return Verdict(verdict="holds", value=float(len(evidence.samples("float")["even"])), test="count")

            return [Claim("counted", "every sample is tested once a seed", "count", check)]

        def meet(self, arm):
            trouble, _, where = self.config.trouble.partition("@")
            if arm != where:
                return
            if trouble == "raise":
                raise ZeroDivisionError("as asked")
            if trouble == "die":
                os._exit(7)
            if trouble == "sleep":
                time.sleep(600)

    return Probe
"""


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plugin") / "probe.py"
    path.write_text(PLUGIN, encoding="utf-8")
    return path


@pytest.fixture
def script() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a script that runs a plugin; it comes from standard input and has no main guard."""
    started: list[subprocess.Popen[str]] = []

    def start(
        plugin: Path, out: Path, workers: int = 1, trouble: str = "", **environment: str
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-", str(plugin), str(out), str(workers), trouble],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            # A shell's background job ignores interrupts, and so would its children.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        started.append(process)
        assert process.stdin is not None
        process.stdin.write(SCRIPT)
        process.stdin.close()
        process.stdin = None
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def framework() -> Framework:
    return Framework(no_plugins=True, config={})


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of ``core/ptq`` with two seeds; tests must not change it."""
    options = {**TINY, "latency": True, "seeds": 2}
    out = tmp_path_factory.mktemp("runs") / "ptq"
    return run("ptq", out=out, framework=Framework(no_plugins=True, config={}), **options)


@pytest.fixture
def tiny(tmp_path: Path, framework: Framework) -> Callable[..., Run]:
    """Start a tiny run in ``tmp_path / "run"``."""

    def start(plugin: str = "ptq", **options: Any) -> Run:
        if "resume" in options:
            return run(**{"workers": 1, "report": False, "framework": framework, **options})
        return run(plugin, **{**TINY, "framework": framework, "out": tmp_path / "run", **options})

    return start


def _without_times(data: Any) -> Any:
    if isinstance(data, dict):
        dropped = {"latency_us", "energy_j", "times"}
        return {key: _without_times(value) for key, value in data.items() if key not in dropped}
    return data


@pytest.fixture
def without_times() -> Callable[[Any], Any]:
    """Return a summary's data without what two runs of one config may differ in."""
    return _without_times
