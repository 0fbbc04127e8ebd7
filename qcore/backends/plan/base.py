"""Step and Program: what a plan does, as data that a backend can read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, NewType

from torch import Tensor

from qcore.errors import UsageError

__all__ = [
    "FLOAT_BOUND",
    "Compiled",
    "Program",
    "Runner",
    "Shape",
    "Step",
    "Value",
    "WideStep",
    "mismatch",
    "sum_bound",
    "with_relu",
]

Value = NewType("Value", int)
"""The number of a value. Value 0 is a program's input."""

Shape = tuple[int, ...]
"""Shape of one sample: (features,), (tokens, features) or (channels, height, width)."""

Runner = Callable[[Tensor], Tensor]
Compiled = Callable[[Shape], Runner]
"""Given the shape of a sample, what runs float32 (rows, *shape). May raise UsageError."""


@dataclass(frozen=True, eq=False)
class Step:
    """One operation of a plan.

    Attributes:
        inputs: the values that it reads.
        output: the value that it gives.
        layer: path of the module that it comes from.
    """

    inputs: tuple[Value, ...]
    output: Value
    layer: str
    name: ClassVar[str]

    @property
    def title(self) -> str:
        """What it does, with what is fused into it, for ``qcore.explain``."""
        return with_relu(self.name, getattr(self, "relu", False))

    @property
    def bound(self) -> float:
        """The largest difference from ``apply`` that a backend may make, relative to the largest output; 0 for none."""
        return 0.0

    def infer(self, *shapes: Any, **_: Any) -> Shape:
        """Return the output's shape for one sample, given those of the inputs; by default the first one's.

        Raises:
            UsageError: the inputs' shapes do not fit.
        """
        shape: Shape = shapes[0]
        return shape

    def widens(self, *precise: bool) -> bool:
        """Return whether the output is float64, given which inputs are; by default all numbers are float32.

        Raises:
            UsageError: the step does not take such inputs.
        """
        if any(precise):
            raise UsageError(f"{self.layer or 'the model'} ({self.title}) takes float32 values, not float64 ones")
        return False

    def apply(self, *values: Any, **_: Any) -> Tensor:
        """Return the output (rows, ...) of ``values`` (rows, ...) as torch computes it: the step's definition."""
        raise NotImplementedError


class WideStep(Step):
    """A step from float64 to float64."""

    def widens(self, *precise: bool) -> bool:
        """Return True."""
        if not all(precise):
            where = self.layer or "the model"
            raise UsageError(f"{where} ({self.title}) takes float64 values", "make them by linear(..., precise=True)")
        return True


@dataclass(frozen=True, eq=False)
class Program:
    """A sequence of steps; each step reads values that earlier ones gave.

    Samples do not mix: row i of every value depends on row i of the input alone.

    Attributes:
        steps: in the order in which they run.
        output: the value that the program gives.
    """

    steps: tuple[Step, ...]
    output: Value

    def __call__(self, x: Tensor) -> Tensor:
        """Return the output (rows, ...) for ``x`` (rows, ...), step by step in torch: the program's definition."""
        values = {Value(0): x}
        for step in self.steps:
            values[step.output] = step.apply(*(values[value] for value in step.inputs))
        return values[self.output]

    def shapes(self, shape: Shape) -> dict[Value, Shape]:
        """Return the shape of every value for samples of ``shape``.

        Raises:
            UsageError: a step cannot take what it would get; its layer is named.
        """
        found = {Value(0): shape}
        for step in self.steps:
            found[step.output] = step.infer(*(found[value] for value in step.inputs))
        return found

    def precise(self) -> set[Value]:
        """Return the values that are float64; the others are float32, as are the program's input and output.

        Raises:
            UsageError: a step does not take what it would get, or the output is float64.
        """
        found: set[Value] = set()
        for step in self.steps:
            if step.widens(*(value in found for value in step.inputs)):
                found.add(step.output)
        if self.output in found:
            raise UsageError("a plan gives float32 values, not float64 ones", "end a router with builder.choose")
        return found

    def handed_over(self) -> set[Value]:
        """Return the values that are codes, not floats.

        Raises:
            UsageError: a step does not take what it would get, or the output is codes.
        """
        found = {step.output for step in self.steps if getattr(step, "codes", None) is not None}
        for step in self.steps:
            takes = bool(getattr(step, "coded", getattr(step, "codes", None) is not None))
            if takes != (step.inputs[0] in found) or any(value in found for value in step.inputs[1:]):
                where = step.layer or "the model"
                raise UsageError(f"{where} ({step.title}) takes {'codes' if takes else 'floats'}, and would get others")
        if self.output in found:
            raise UsageError("a plan gives floats, not codes")
        return found

    def walk(self) -> Iterator[Step]:
        """Yield every step, a mixture's before those of its experts."""
        for step in self.steps:
            yield step
            for body in getattr(step, "bodies", ()):
                yield from body.walk()


FLOAT_BOUND = 2.0**-20
"""The bound of float steps whose sums a backend may order as it likes."""


def sum_bound(terms: int) -> float:
    """Return the bound of a float sum of ``terms`` products: as many roundings, in another order."""
    return 2.0**-22 * (terms + 3)


def mismatch(step: Step, wanted: str, shape: Shape) -> UsageError:
    """Return the error of a step that takes ``wanted`` and would get samples of ``shape``."""
    where = step.layer or "the model"
    given = ", ".join(["rows", *map(str, shape)])
    return UsageError(f"{where} ({step.title}) takes {wanted}, not ({given})")


def with_relu(name: str, relu: bool) -> str:
    """Return the title of a step that may have a ReLU fused into it."""
    return f"{name} + relu" if relu else name
