"""``qcore doctor``: what is installed here, what works, and how to mend what does not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer
from rich.text import Text

import qcore
from qcore.cli.console import make_table, print_data, show
from qcore.cli.options import Json
from qcore.cli.session import Session, session_of
from qcore.cli.settings import parse_workers
from qcore.errors import QcoreError, UnknownNameError, did_you_mean
from qcore.measure.bench.machine import cpu_flags

if TYPE_CHECKING:
    from qcore.plugins import Framework

__all__ = ["Finding", "doctor", "findings"]

Status = Literal["ok", "absent", "problem"]

STYLES: dict[Status, str] = {"ok": "green", "absent": "dim", "problem": "red"}
EXTRAS = {"zeus": ("energy", "measured energy"), "pyarrow": ("parquet", "parquet files"), "PIL": ("images", "images")}
OUR_DISTRIBUTION, FOREIGN_DISTRIBUTION = "qcore-ml", "qcore"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. Only a ``problem`` makes ``qcore doctor`` fail."""

    name: str
    status: Status
    detail: str
    hint: str | None = None


def doctor(context: typer.Context, json: Json = False) -> None:
    """Look at this installation: is it ours, what is loaded, which backends work."""
    found = list(findings(session_of(context)))
    if json:
        print_data([asdict(finding) for finding in found])
    else:
        rows = [
            (Text(f.status, style=STYLES[f.status]), f.name, f.detail + (f"\n→ {f.hint}" if f.hint else ""))
            for f in found
        ]
        show(make_table(["", "what", "found"], rows))
    if any(finding.status == "problem" for finding in found):
        raise typer.Exit(1)


def findings(session: Session) -> Iterator[Finding]:
    """Yield what is found, one thing at a time."""
    yield _package()
    yield _command()
    yield Finding("python", "ok", f"{platform.python_version()} at {sys.executable}")
    yield _torch()
    yield from _plugins(session.quiet_framework)
    yield from _backends(session.quiet_framework)
    yield from (_extra(module, *about) for module, about in EXTRAS.items())
    yield Finding("cpu", "ok", _cpu())
    yield _data()
    yield from _environment(session.quiet_framework)


def _package() -> Finding:
    """Say whether the ``qcore`` that is imported is ours: the name on the package index belongs to another project."""
    place = str(Path(qcore.__file__ or "").parent)
    owners = set(importlib.metadata.packages_distributions().get("qcore", []))
    if FOREIGN_DISTRIBUTION in owners:
        hint = f"pip uninstall {FOREIGN_DISTRIBUTION} && pip install --force-reinstall {OUR_DISTRIBUTION}"
        detail = f"the distribution {FOREIGN_DISTRIBUTION!r}, an unrelated project, is installed over {place}"
        return Finding("qcore", "problem", detail, hint)
    if OUR_DISTRIBUTION not in owners and not _installed(OUR_DISTRIBUTION):
        hint = "pip install -e . in the source tree"
        return Finding("qcore", "absent", f"{qcore.__version__} at {place}, not installed by pip", hint)
    return Finding("qcore", "ok", f"{OUR_DISTRIBUTION} {qcore.__version__} at {place}")


def _command() -> Finding:
    found, here = shutil.which("qcore"), Path(sys.executable).parent
    if found is None:
        return Finding("command", "absent", "no 'qcore' on the path", f"use: {sys.executable} -m qcore")
    if Path(found).parent.resolve() != here.resolve():
        hint = f"use: {sys.executable} -m qcore, or put {here} first on the path"
        return Finding("command", "absent", f"{found} belongs to another Python", hint)
    return Finding("command", "ok", found)


def _installed(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _torch() -> Finding:
    if not _installed("torch"):
        return Finding("torch", "problem", "not installed", "pip install torch")
    try:
        import torch
    except (ImportError, OSError) as error:  # a damaged or mismatched build
        return Finding("torch", "problem", f"cannot be imported: {error}", "pip install --force-reinstall torch")
    cuda = torch.version.cuda
    gpu = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no GPU usable"
    detail = f"{torch.__version__}, {torch.get_num_threads()} threads, CUDA {cuda or 'not built in'}, {gpu}"
    return Finding("torch", "ok", detail)


def _plugins(framework: Framework) -> Iterator[Finding]:
    for status in framework.plugins:
        if status.status == "loaded":
            yield Finding(f"plugin {status.name}", "ok", f"{status.origin}, offers {len(status.specs)}")
        elif status.status == "disabled":
            yield Finding(f"plugin {status.name}", "absent", status.problem or "disabled")
        else:
            hint = f"pip install --upgrade {status.distribution}" if status.distribution else None
            yield Finding(f"plugin {status.name}", "problem", status.problem or status.status, hint)


def _backends(framework: Framework) -> Iterator[Finding]:
    for spec in framework.registry.list("backend"):
        name = f"backend {spec.id}"
        try:
            probe = framework.registry.make("backend", spec.id).probe()
        except Exception as error:  # foreign code: a backend must not keep the others from being looked at
            yield Finding(name, "problem", f"its probe failed: {type(error).__name__}: {error}")
            continue
        details = ", ".join(f"{key} {value}" for key, value in probe.details.items() if key != "hint")
        detail = f"on {probe.device}" + (f" ({details})" if details else "")
        if probe.available:
            yield Finding(name, "ok", detail)
        else:
            yield Finding(name, "absent", probe.reason or "not available", probe.details.get("hint"))


def _extra(module: str, extra: str, purpose: str) -> Finding:
    if importlib.util.find_spec(module) is None:
        return Finding(module, "absent", f"no {purpose}", f"pip install '{OUR_DISTRIBUTION}[{extra}]'")
    return Finding(module, "ok", purpose)


def _cpu() -> str:
    return ", ".join([f"{platform.machine()}, {os.cpu_count()} cores", *cpu_flags()])


def _data() -> Finding:
    folder = os.environ.get("QCORE_DATA")
    if not folder:
        return Finding("QCORE_DATA", "absent", "not set: data files are looked for in the working directory")
    if not Path(folder).is_dir():
        return Finding("QCORE_DATA", "problem", f"{folder} is not a folder", "unset it, or name a folder of data")
    return Finding("QCORE_DATA", "ok", folder)


def _environment(framework: Framework) -> Iterator[Finding]:
    for name, value in sorted(os.environ.items()):
        if name.startswith(("QCORE_", "OMP_")) and name != "QCORE_DATA":
            try:
                _check_variable(name, value, framework)
            except QcoreError as error:
                yield Finding(name, "problem", error.message, error.hint)
            else:
                yield Finding(name, "ok", value)


def _check_variable(name: str, value: str, framework: Framework) -> None:
    """Raise QcoreError if ``value`` is none that a command could use."""
    from qcore.plugins.discovery import normalize

    if name == "QCORE_BACKEND" and value not in ("", "auto"):
        framework.registry.get("backend", value)
    elif name == "QCORE_WORKERS" and value:
        parse_workers(value, name)
    elif name == "QCORE_PLUGINS":
        known = {status.name for status in framework.plugins}
        for plugin in map(normalize, value.split(",")):
            if plugin and plugin not in known:
                raise UnknownNameError(f"there is no plugin {plugin!r}", did_you_mean(plugin, known))
