"""The choice of a backend: once, when a layer is packed or loaded, never per call."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from qcore.backends.base import Backend, Kernel, KernelRequest, Probe, Refusal
from qcore.errors import BackendError, PluginError
from qcore.plugins import default
from qcore.registry import Registry
from qcore.tensor import QTensor

__all__ = ["BackendChoice", "Candidate", "choose", "find_backends"]


@dataclass(frozen=True)
class Candidate:
    """A backend with its id."""

    id: str
    backend: Backend


@dataclass(frozen=True)
class BackendChoice:
    """What runs a layer, and why no backend of higher priority does."""

    backend: str
    kernel: Kernel
    refused: tuple[Refusal, ...]


def find_backends(name: str = "auto", registry: Registry | None = None) -> tuple[list[Candidate], bool]:
    """Return the backends to try, best first, and whether the user named one.

    Args:
        name: a backend's name, or ``"auto"``: then the environment's ``QCORE_BACKEND`` counts, else all are tried.
        registry: where backends are looked up; None for the default framework's.

    Raises:
        UnknownNameError: no loaded plugin offers the named backend.
    """
    registry = registry or default().registry
    if name == "auto":
        name = os.environ.get("QCORE_BACKEND", "auto") or "auto"
    if name != "auto":
        spec = registry.get("backend", name)
        return [Candidate(spec.id, registry.make("backend", spec.id))], True
    found = [_candidate(spec.id, registry) for spec in registry.list("backend")]
    return sorted(found, key=lambda candidate: (-candidate.backend.priority, candidate.id)), False


class _Broken(Backend):
    """Stands for an installed backend that cannot be loaded: it is reported, and the others go on."""

    name: ClassVar[str] = "broken"
    priority: ClassVar[int] = 1 << 30  # its own is unknown; first, so that its absence is told

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def probe(self) -> Probe:
        """Return why it cannot be loaded."""
        return Probe(False, "none", self.reason)

    def reject(self, request: KernelRequest) -> str:
        """Return why it cannot be loaded."""
        return self.reason

    def prepare(self, request: KernelRequest, weight: QTensor, bias: Tensor | None) -> Kernel:
        """Refuse."""
        raise BackendError(self.reason)


def _candidate(spec_id: str, registry: Registry) -> Candidate:
    try:
        return Candidate(spec_id, registry.make("backend", spec_id))
    except PluginError as error:
        return Candidate(spec_id, _Broken(str(error)))


def choose(
    request: KernelRequest, weight: QTensor, bias: Tensor | None, candidates: list[Candidate], *, forced: bool
) -> BackendChoice:
    """Prepare ``request`` on the first of ``candidates`` that is available and does not reject it.

    Raises:
        BackendError: a forced backend cannot, or no backend can; every reason is given.
    """
    refused: list[Refusal] = []
    for candidate in candidates:
        probe = candidate.backend.probe()
        reason = probe.reason or "not available" if not probe.available else candidate.backend.reject(request)
        if reason is None:
            return BackendChoice(candidate.id, candidate.backend.prepare(request, weight, bias), tuple(refused))
        elsewhere = not probe.runs_on(request.device.type)
        refused.append(Refusal(candidate.id, reason, probe.details.get("hint"), elsewhere))
    reasons = "; ".join(f"{refusal.backend}: {refusal.reason}" for refusal in refused)
    what = "the named backend cannot run" if forced else "no backend can run"
    raise BackendError(f"{what} this {request.op} of {tuple(request.weight_shape)}: {reasons}", _hints(refused))


def report_fallback(choices: list[BackendChoice]) -> None:
    """Warn once if a layer fell back from an installed backend."""
    refused = [refusal for choice in choices for refusal in choice.refused if not refusal.elsewhere]
    fallen = {(refusal.backend, refusal.reason) for refusal in refused}
    for backend, reason in sorted(fallen):
        warnings.warn(f"{backend} does not run some layers: {reason} (see qcore.explain)", stacklevel=3)


def _hints(refused: list[Refusal]) -> str | None:
    hints = [refusal.hint for refusal in refused if refusal.hint]
    return "; ".join(hints) or None
