"""Every hook of qcore: the whole extension surface.

A plugin is a torch-free module with functions marked ``@hookimpl``. Registration hooks return specs: data, not
callbacks. All arguments are optional to the implementer, as pluggy passes only those it names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qcore.registry import (
        BackendSpec,
        ExporterSpec,
        MethodSpec,
        ModelSpec,
        QuantizerSpec,
        RouterSpec,
        TaskSpec,
    )
    from qcore.runs.report import Section
    from qcore.runs.rundir import Run

__all__ = ["ENTRY_POINT_GROUP", "PROJECT", "REGISTRATION_HOOKS", "hookimpl", "hookspec"]

PROJECT = "qcore"
ENTRY_POINT_GROUP = "qcore.plugins.v1"
"""The API generation is part of the name: a plugin for another one is reported without being imported."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def qcore_quantizers() -> list[QuantizerSpec]:  # type: ignore[empty-body]
    """Return the quantizers that the plugin offers.

    Example::

        @hookimpl
        def qcore_quantizers():
            return [QuantizerSpec(name="ternary", target="my_plugin.ternary:Ternary", summary="...", bits=(1.58,))]
    """


@hookspec
def qcore_routers() -> list[RouterSpec]:  # type: ignore[empty-body]
    """Return the routers that the plugin offers."""


@hookspec
def qcore_backends() -> list[BackendSpec]:  # type: ignore[empty-body]
    """Return the backends that the plugin offers; none is probed before it is needed."""


@hookspec
def qcore_methods() -> list[MethodSpec]:  # type: ignore[empty-body]
    """Return the methods: what ``qcore run --plugin`` runs. One named like the plugin is its default."""


@hookspec
def qcore_tasks() -> list[TaskSpec]:  # type: ignore[empty-body]
    """Return the tasks: data, splits and metric."""


@hookspec
def qcore_models() -> list[ModelSpec]:  # type: ignore[empty-body]
    """Return the networks, which a model file names so that it can be rebuilt without pickle."""


@hookspec
def qcore_exporters() -> list[ExporterSpec]:  # type: ignore[empty-body]
    """Return the file formats."""


@hookspec
def qcore_run_started(run: Run) -> None:
    """Called once, after ``run.json`` was written and before the first job. An error stops the run."""


@hookspec
def qcore_fold_finished(run: Run, result: Mapping[str, Any]) -> None:
    """Called in the parent process after each finished job with its ``result.json`` data."""


@hookspec
def qcore_run_finished(run: Run, summary: Mapping[str, Any]) -> None:
    """Called once, after ``summary.json`` was written. An error is reported and changes nothing."""


@hookspec
def qcore_report(run: Run) -> list[Section]:  # type: ignore[empty-body]
    """Return further sections of the run's report. An error is reported and the report written without them."""


REGISTRATION_HOOKS: dict[str, str] = {
    "qcore_quantizers": "quantizer",
    "qcore_routers": "router",
    "qcore_backends": "backend",
    "qcore_methods": "method",
    "qcore_tasks": "task",
    "qcore_models": "model",
    "qcore_exporters": "exporter",
}
"""Registration hooks, and the kind of spec each returns."""
