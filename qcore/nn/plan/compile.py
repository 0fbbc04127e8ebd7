"""``compile_plan``: a whole packed model in one call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from qcore.backends.base import Refusal
from qcore.backends.choice import Candidate, find_backends
from qcore.backends.memory import is_recorded
from qcore.backends.plan import PackedStep, Program, Step
from qcore.backends.plan.base import Compiled, Runner, Shape
from qcore.errors import BackendError, UsageError
from qcore.nn.plan.builder import PlanBuilder
from qcore.nn.plan.handover import hand_over, handed_over
from qcore.registry import Registry
from qcore.tensor import ActivationScheme

__all__ = ["Plan", "compile_plan"]

_SHAPES_HELD = 64


def compile_plan(
    model: nn.Module, backend: str = "auto", *, codes: bool = True, registry: Registry | None = None
) -> Plan:
    """Return what runs all of ``model`` in one call.

    The plan computes what ``model.eval()`` computes: packed layers, ReLU, ReLU6, max pool and flatten bit for bit;
    float steps such as layer norm within float rounding. It holds the model's numbers as they are now and no reference
    to the model, which is left alone.

    Args:
        model: a packed model in eval mode. Its float layers stay float.
        backend: what compiles the plan: a backend's name, or ``"auto"`` for the best that can; ``QCORE_BACKEND``
            overrides ``"auto"``. Packed layers keep the kernels that ``qcore.pack`` chose.
        codes: hand over integer codes, not floats, between packed layers of one static range, where the backend can; no
            number changes by that.
        registry: where backends are looked up; None for the default framework's.

    Raises:
        UsageError: a module cannot be lowered, or lies on another device than the rest; it is named, with what to do.
        BackendError: the named backend cannot compile it.
    """
    builder = PlanBuilder(model)
    with torch.no_grad():
        program = builder.program(builder.lower(model, builder.input))
    _device(program)
    candidates, forced = find_backends(backend, registry)
    return _compile(program, candidates, codes=codes, forced=forced)


def _compile(program: Program, candidates: list[Candidate], *, codes: bool, forced: bool) -> Plan:
    refused: list[Refusal] = []
    device = _device(program).type
    for candidate in candidates:
        probe = candidate.backend.probe()
        given = hand_over(program) if codes and candidate.backend.hands_over_codes else program
        compiled = candidate.backend.compile(given) if probe.available else probe.reason or "not available"
        if isinstance(compiled, str) and probe.available and given is not program:
            given, compiled = program, candidate.backend.compile(program)
        if not isinstance(compiled, str):
            for refusal in (refusal for refusal in refused if not refusal.elsewhere):
                warnings.warn(f"{refusal.backend} does not compile this plan: {refusal.reason}", stacklevel=3)
            return Plan(given, candidate.id, compiled, refused)
        elsewhere = not probe.runs_on(device)
        refused.append(Refusal(candidate.id, compiled, probe.details.get("hint"), elsewhere))
    reasons = "; ".join(f"{refusal.backend}: {refusal.reason}" for refusal in refused)
    what = "the named backend cannot compile" if forced else "no backend can compile"
    raise BackendError(f"{what} this plan: {reasons}")


class Plan(nn.Module):
    """A compiled model: ``x`` (rows, ...) float32 on the plan's device to its output, without gradients.

    Calls may come from several threads at once. It has no parameters and no state: save the packed model, and compile
    it after loading.

    Attributes:
        program: the steps, as the backend got them.
        backend: id of the backend that compiled them.
        refused: why each backend of higher priority did not.
        device: where inputs must lie.
    """

    def __init__(self, program: Program, backend: str, compiled: Compiled, refused: list[Refusal]) -> None:
        super().__init__()
        self.program, self.backend, self.refused = program, backend, tuple(refused)
        self.device = _device(program)
        self._compiled = compiled
        self._runners: dict[Shape, Runner] = {}
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Return the output (rows, ...).

        Raises:
            UsageError: ``x`` is no float32 tensor on the plan's device, or its samples do not fit the first layer; or
                torch compiles, exports or traces, or a dispatch mode looks on.
        """
        if is_recorded(unknown=False):
            raise UsageError(
                "torch.compile, torch.export, traces and dispatch modes do not see into a plan",
                "give them the packed model",
            )
        if type(x) not in (Tensor, nn.Parameter) or x.dtype is not torch.float32 or x.device != self.device:
            what = f"{x.dtype} on {x.device}" if isinstance(x, Tensor) else "no tensor"
            raise UsageError(f"this plan takes float32 tensors on {self.device}, not {what} ({type(x).__name__})")
        run = self._runners.get(x.shape[1:])
        return (self._specialize(x) if run is None else run)(x)

    def _specialize(self, x: Tensor) -> Runner:
        if x.dim() < 2:
            raise UsageError(f"this plan takes (rows, ...), not {tuple(x.shape)}")
        shape = tuple(x.shape[1:])
        run = self._compiled(shape)
        if len(self._runners) >= _SHAPES_HELD:
            self._runners.clear()
        self._runners[shape] = run
        return run

    def explain(self) -> list[dict[str, Any]]:
        """Return a row a step, as ``qcore.explain`` does."""
        refused = [{"backend": r.backend, "reason": r.reason, "hint": r.hint} for r in self.refused]
        return [_row(step, found, self.backend, refused) for step, found in handed_over(self.program)]

    def extra_repr(self) -> str:
        """Return the number of steps and the backend."""
        return f"{sum(1 for _ in self.program.walk())} steps, {self.backend}"

    def __deepcopy__(self, memo: dict[int, Any]) -> Plan:
        # Nothing of it ever changes, so that copies share it.
        return Plan(self.program, self.backend, self._compiled, list(self.refused))

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise _not_saved()

    def _save_to_state_dict(self, *_: object) -> NoReturn:
        raise _not_saved()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Plan:
        if fn(torch.empty(0, device=self.device)).device != self.device:
            raise UsageError(f"this plan stays on {self.device}", "move the packed model, and compile it there")
        return self


def _not_saved() -> UsageError:
    return UsageError("a plan cannot be saved or pickled", "save the packed model, and compile it after loading")


def _device(program: Program) -> torch.device:
    """Return where the numbers of all steps lie; the CPU if there are none."""
    found = {device: step for step in program.walk() for device in _devices(step)}
    if len(found) > 1:
        places = ", ".join(sorted(f"{step.layer or 'the model'} on {device}" for device, step in found.items()))
        raise UsageError(f"the layers of a plan lie on one device, not {places}", "move the packed model to one")
    return next(iter(found), torch.device("cpu"))


def _devices(step: Step) -> Iterator[torch.device]:
    if isinstance(step, PackedStep):
        yield step.request.device
        if step.norm is not None:
            yield from _devices(step.norm)
    for value in vars(step).values():
        if isinstance(value, Tensor):
            yield value.device


def _row(step: Step, found: ActivationScheme | str, backend: str, refused: list[dict[str, Any]]) -> dict[str, Any]:
    bits, kernel = "-", step.title
    if isinstance(step, PackedStep):
        bits = "/".join(map(str, step.request.bits))
        kernel = f"{step.title}: {step.kernel.name}"
    return {
        "layer": step.layer,
        "op": step.title,
        "bits": bits,
        "backend": backend,
        "kernel": kernel,
        "bound": step.bound,
        "refused": refused,
        **_output(step, found, backend),
    }


def _output(step: Step, found: ActivationScheme | str, backend: str) -> dict[str, str | None]:
    """Return what the step hands over, and why that is floats where it is."""
    scheme: ActivationScheme | None = getattr(step, "codes", None)
    if scheme is not None:
        return {"output": "int8 codes" if scheme.symmetric else "uint8 codes", "why_floats": None}
    return {"output": "floats", "why_floats": found if isinstance(found, str) else f"{backend} gets no codes"}
