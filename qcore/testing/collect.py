"""Which checks a plugin gets: chosen by the kinds of what it offers."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from qcore.errors import UsageError, did_you_mean
from qcore.testing.cases import Case, CheckResult, checks_of, run_case
from qcore.testing.subjects import Offer, PluginSubject
from qcore.testing.variants import variants

if TYPE_CHECKING:
    from qcore.plugins import Framework, PluginStatus
    from qcore.registry import Spec

__all__ = ["collect", "match_expected", "run_checks"]

_BY_KIND = {
    "quantizer": ("quantizer_checks",),
    "router": ("router_checks",),
    "backend": ("backend_checks", "training_checks"),
    "method": ("method_checks",),
    "model": ("model_checks",),
    "task": ("task_checks",),
}
_WITHOUT_VARIANTS = ("backend", "method", "task")


def collect(name: str, framework: Framework | None = None) -> list[Case]:
    """Return every case for ``name``: a plugin, a path to one, or the id ``plugin/name`` of one thing it offers.

    Raises:
        PluginError: if the plugin is not loaded.
        UnknownNameError: if there is no such plugin.
    """
    if framework is None:
        from qcore.plugins import default

        framework = default()
    chosen = [spec for spec in framework.registry if spec.id == name]
    status = framework.require(chosen[0].plugin) if chosen else framework.use(name)
    specs = chosen or [spec for spec in framework.registry if spec.plugin == status.name]
    cases = [] if chosen else list(_plugin_cases(status, specs))
    return [*cases, *(case for spec in specs for case in _spec_cases(spec, framework))]


def run_checks(
    name: str, framework: Framework | None = None, *, expected_failures: Mapping[str, str] | None = None
) -> list[CheckResult]:
    """Run every check on ``name`` and return how each went; the arguments are those of ``conformance``."""
    cases = collect(name, framework)
    reasons = match_expected(cases, expected_failures or {})
    return [run_case(case, reasons.get(case.id)) for case in cases]


def match_expected(cases: list[Case], expected: Mapping[str, str]) -> dict[str, str]:
    """Return the reasons of expected failures by case id; a key is a case id or the name of a check.

    Raises:
        UsageError: if a key matches no case, or a reason is empty.
    """
    reasons: dict[str, str] = {}
    for key, reason in expected.items():
        matched = [case.id for case in cases if key in (case.id, case.name)]
        if not matched:
            known = [*(case.id for case in cases), *(case.name for case in cases)]
            raise UsageError(f"the expected failure {key!r} names no check", did_you_mean(key, known))
        if not reason.strip():
            raise UsageError(f"the expected failure {key!r} has no reason", "say why it fails, best with an issue")
        reasons.update(dict.fromkeys(matched, reason))
    return reasons


def _plugin_cases(status: PluginStatus, specs: list[Spec]) -> Iterator[Case]:
    yield from _cases("plugin_checks", PluginSubject(status, tuple(specs)))
    if status.name == "core":  # codecs are the core's own: no hook adds one
        from qcore.tensor import CODECS

        for codec in CODECS.values():
            yield from _cases("codec_checks", codec)


def _spec_cases(spec: Spec, framework: Framework) -> Iterator[Case]:
    yield from _cases("spec_checks", Offer(spec, framework.registry))
    modules = _BY_KIND.get(spec.kind)
    if modules is None:
        return
    for options in [{}] if spec.kind in _WITHOUT_VARIANTS else variants(spec):
        for module in modules:
            yield from _cases(module, Offer(spec, framework.registry, options))


def _cases(module: str, subject: object) -> Iterator[Case]:
    for check in checks_of(importlib.import_module(f"qcore.testing.{module}")):
        yield Case(check, subject)
