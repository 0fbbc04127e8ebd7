"""Writing the report of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qcore.foreign import ForeignError, guarded
from qcore.runs.files import atomic_write
from qcore.runs.report.material import Material
from qcore.runs.report.render import render
from qcore.runs.report.section import Section

if TYPE_CHECKING:
    from qcore.plugins import Framework
    from qcore.runs.rundir import Run

__all__ = ["write_report"]


def write_report(run: Run, framework: Framework | None = None) -> Path:
    """Write ``report.html`` into the run's directory, atomically, and return its path.

    A method or plugin that fails to give its sections is named in the report, which is written without them.

    Args:
        run: a run whose ``summary.json`` is written.
        framework: where the method and the plugins are looked up; None for the default.

    Raises:
        QcoreError: the run has no summary, or the file cannot be written.
    """
    material = Material(run.path, run.record, run.summary, run.evidence())
    problems: list[str] = []
    sections = list(_sections(run, material, framework or _default(), problems))
    path = run.path / "report.html"
    atomic_write(path, render(material, sections, problems))
    return path


def _default() -> Framework:
    from qcore.plugins import default

    return default()


def _sections(run: Run, material: Material, framework: Framework, problems: list[str]) -> Iterator[Section]:
    """Yield what the method and the plugins add; what goes wrong is added to ``problems``."""
    config = run.config

    def of_method() -> Any:
        method = framework.registry.make("method", config.plugin, **config.settings)
        method.spec_id, method.registry = config.plugin, framework.registry
        return method.sections(material.evidence)

    yield from _checked(config.plugin, of_method, problems)
    for plugin, outcome in framework.call("qcore_report", run=run):
        yield from _checked(plugin, partial(_value, outcome), problems)


def _value(outcome: Any) -> Any:
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _checked(owner: str, give: Callable[[], Any], problems: list[str]) -> list[Section]:
    """Return the sections that ``give`` returns, or none of them."""
    try:
        found = list(guarded("report", give) or [])
    except ForeignError as error:
        problems.append(f"{owner}: {error.reason}")
        return []
    wrong = [part for part in found if not isinstance(part, Section)]
    if wrong:
        problems.append(f"{owner}: gave {type(wrong[0]).__name__} where a Section is expected")
        return []
    return found
