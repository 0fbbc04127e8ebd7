"""Handing over codes: where a layer's output reaches layers of one static range alone, it goes there as integers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from qcore.backends.plan import Experts, Flatten, Limit, MaxPool, PackedStep, Program, Relu, Step, Value
from qcore.tensor import ActivationScheme

__all__ = ["hand_over", "handed_over"]

Finding = ActivationScheme | str
"""How a value is coded, or why it stays float."""

_Pointwise = Relu | Limit
_Monotone = _Pointwise | MaxPool | Flatten
"""Steps that only choose among their numbers, or move them: on codes as on floats."""


def hand_over(program: Program) -> Program:
    """Return ``program`` with packed layers that encode their outputs where every reader would do so, and alike.

    A value is handed over as codes if it comes from a packed layer, perhaps through ReLUs, limits, max pools and
    flattens, and goes, perhaps through those, to packed layers alone, whose static ranges agree. No number changes: the
    codes are those that the readers would make, and no step between them does other than order and move numbers.
    """
    found = _decide(program)
    steps = (_given(step, found) for step in program.steps)
    handed = Program(tuple(steps), program.output)
    handed.handed_over()
    return handed


def handed_over(program: Program) -> Iterator[tuple[Step, Finding]]:
    """Yield each step as ``program.walk()`` does, with how its output is coded, or why it is float."""
    found = _decide(program)
    for step in program.steps:
        yield step, found[step.output]
        for body in getattr(step, "bodies", ()):
            yield from handed_over(body)


def _given(step: Step, found: dict[Value, Finding]) -> Step:
    """Return ``step`` with what ``found`` says of its input and its output."""
    taken, given = found[step.inputs[0]], found[step.output]
    scheme = given if isinstance(given, ActivationScheme) else None
    if isinstance(step, PackedStep):
        return replace(step, coded=isinstance(taken, ActivationScheme), codes=scheme)
    if isinstance(step, Experts):
        return replace(step, bodies=tuple(hand_over(body) for body in step.bodies))
    return replace(step, codes=scheme) if isinstance(step, _Monotone) else step


def _decide(program: Program) -> dict[Value, Finding]:
    """Return of each value how it is coded, or why it is float."""
    wanted = _wanted(program)
    found: dict[Value, Finding] = {Value(0): "it is the plan's input"}
    for step in program.steps:
        taken, want = found[step.inputs[0]], wanted[step.output]
        if isinstance(want, str) or isinstance(step, PackedStep):
            found[step.output] = want
        elif isinstance(step, _Monotone):
            found[step.output] = want if isinstance(taken, ActivationScheme) else "it comes from floats"
        else:
            found[step.output] = f"{_named(step)} computes in floats"
    return found


def _wanted(program: Program) -> dict[Value, Finding]:
    """Return of each value the scheme by which all of its readers would encode it, or why there is none."""
    images = _images(program)
    wanted: dict[Value, Finding] = {program.output: "it is the plan's output"}
    for step in reversed(program.steps):
        wanted.setdefault(step.output, "nothing reads it")
        for value in set(step.inputs):
            mine = _wanted_by(step, wanted[step.output], image=value in images)
            wanted[value] = _both(wanted[value], mine) if value in wanted else mine
    return wanted


def _images(program: Program) -> set[Value]:
    """Return the values that come from a packed convolution, as images: backends may lay out their codes otherwise."""
    images: set[Value] = set()
    for step in program.steps:
        if isinstance(step, PackedStep):
            images |= {step.output} if step.request.conv is not None else set()
        elif isinstance(step, _Pointwise | MaxPool) and step.inputs[0] in images:
            images.add(step.output)
    return images


def _wanted_by(reader: Step, after: Finding, *, image: bool) -> Finding:
    """Return by which scheme ``reader`` would encode a value, given what is wanted of its own output, or why not."""
    if isinstance(reader, PackedStep):
        scheme = reader.request.activation
        if scheme is None:
            return f"{_named(reader)} computes on floats: only its weight is quantized"
        if scheme.columns is not None:
            return f"{_named(reader)} codes each column of its input by itself"
        if not scheme.is_static:
            return f"{_named(reader)} finds its input's range anew at each call"
        fits = image == (reader.request.conv is not None)
        return scheme if fits else f"{_named(reader)} reads its axes otherwise than they are given"
    if not isinstance(reader, _Monotone):
        return f"{_named(reader)} takes floats"
    if not image and not isinstance(reader, _Pointwise):
        return f"{_named(reader)} mixes the tokens of a linear layer"
    return after


def _both(first: Finding, second: Finding) -> Finding:
    if isinstance(first, str):
        return first
    if isinstance(second, str):
        return second
    return first if first.agrees(second) else "the layers that read it have different ranges"


def _named(step: Step) -> str:
    return f"{step.layer or 'the model'} ({step.title})"
