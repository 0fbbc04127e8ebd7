"""Fusion: a batch norm, a ReLU and a limit become part of the step before them, where that changes no number."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from qcore.backends.plan import Add, BatchNorm, Convolution, LayerNorm, Limit, Linear, PackedStep, Program, Relu, Step

__all__ = ["fuse"]

_WITH_RELU = PackedStep | Linear | Convolution | LayerNorm | BatchNorm | Add


def fuse(program: Program) -> Program:
    """Return ``program`` with batch norms, ReLUs and limits fused into the steps whose values nobody else reads."""
    uses = Counter(value for step in program.steps for value in step.inputs)
    uses[program.output] += 1
    steps: list[Step] = []
    for step in program.steps:
        before = next((i for i, earlier in enumerate(steps) if earlier.output in step.inputs), None)
        joined = None if before is None or uses[steps[before].output] > 1 else _joined(steps[before], step)
        if before is None or joined is None:
            steps.append(step)
        else:
            steps[before] = joined
    return Program(tuple(steps), program.output)


def _joined(first: Step, second: Step) -> Step | None:
    """Return one step that does ``first`` and then ``second``, or None."""
    if isinstance(second, Limit) and isinstance(first, PackedStep) and first.limit is None:
        return replace(first, limit=second.top, output=second.output)
    if getattr(first, "relu", True) or getattr(first, "limit", None) is not None:
        return None  # it has no place for more, or its ReLU comes last already
    if isinstance(second, Relu) and isinstance(first, _WITH_RELU):
        return replace(first, relu=True, output=second.output)
    if isinstance(second, BatchNorm) and isinstance(first, PackedStep) and first.norm is None:
        return replace(first, norm=second, relu=second.relu, output=second.output)
    return None
