"""Plans whose packed layers may hand over codes, for backends that say they can run them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from qcore.backends import Kernel
from qcore.backends.plan import BatchNorm, Flatten, Limit, MaxPool, PackedStep, Program, Relu, Step, Value
from qcore.nn.plan.fusion import fuse
from qcore.tensor import ActivationScheme, Encoded
from qcore.tensor.arithmetic import Conv2dShape
from qcore.testing.backend_problems import Problem, coded_weight, problem
from qcore.testing.inputs import generator, normal
from qcore.testing.plan_problems import PlanProblem

__all__ = ["handover_plans"]

Prepare = Callable[[Problem], Kernel | None]
WALKS = (Conv2dShape((1, 1), (1, 1)), Conv2dShape((2, 1), (1, 2), (1, 2)), Conv2dShape((1, 1), (1, 1), groups=3))
CHANNELS = 9


def handover_plans(prepare: Prepare, device: str) -> Iterator[PlanProblem]:
    """Yield plans of floats, whose layers have static ranges, each layer another.

    Args:
        prepare: returns the kernel of a layer, or None where the backend rejects it; a plan with such a layer is left
            out.
        device: where they are to lie.
    """
    for scheme in _schemes():
        for encoding, bits in (("ternary", 2), ("int", 4), ("uint", 4), ("int", 8)):
            for walk in WALKS:
                for norm in (False, True):
                    chain = _Chain(prepare, device, scheme, (3 * walk.groups, 8, 7))
                    yield from chain.images(encoding, bits, walk, norm=norm)
        yield from _Chain(prepare, device, scheme, (30,)).rows()
        yield from _Chain(prepare, device, scheme, (5, 30)).rows()


def _schemes() -> Iterator[Callable[[float], ActivationScheme]]:
    """Yield what makes a scheme of numbers up to some magnitude; a fifth of them is clipped."""
    for bits, symmetric in ((8, False), (8, True), (5, False), (2, True)):

        def make(size: float, bits: int = bits, symmetric: bool = symmetric) -> ActivationScheme:
            low, high = torch.full((1, 1), -size), torch.full((1, 1), size if symmetric else size / 2)
            return ActivationScheme(bits, symmetric, False, low=low, high=high)

        yield make


class _Chain:
    """A program that grows step by step; its value is what the last step gives."""

    def __init__(
        self, prepare: Prepare, device: str, scheme: Callable[[float], ActivationScheme], shape: Sequence[int]
    ) -> None:
        self.prepare, self.device, self.scheme = prepare, device, scheme
        self.steps: list[Step] = []
        self.rejected = False
        self.x = normal((4, *shape), torch.float32, seed=len(shape)).to(device)
        self.values = self.x

    def images(self, encoding: str, bits: int, walk: Conv2dShape, *, norm: bool) -> Iterator[PlanProblem]:
        """Yield two convolutions with pools between them, and two linear layers."""
        inputs = self.x.shape[1] // walk.groups
        self.layer(coded_weight(encoding, bits, (CHANNELS, inputs, 3, 2), "row"), walk, norm=norm)
        self.limit(0.3).pool((3, 2), (1, 1), (1, 1), (1, 2)).layer(
            coded_weight(encoding, bits, (6, CHANNELS, 2, 2), "row"), WALKS[0]
        )
        self.pool((2, 2), (2, 2), (0, 0), (1, 1)).relu().limit(0.2).add(Flatten)
        self.layer(coded_weight(encoding, bits, (17, self.values.shape[1]), "row"), norm=norm, relu=True)
        self.layer(coded_weight("int", torch.tensor([4, 8, 2]), (3, 17), "row"))
        yield from self.problem(f"{encoding} of {bits} bits, {tuple(walk)}{', batch norms' * norm}")

    def rows(self) -> Iterator[PlanProblem]:
        """Yield three linear layers; of tokens too."""
        for features, outputs in ((30, 65), (65, 13), (13, 4)):
            self.layer(coded_weight("int", 4, (outputs, features), "row"), relu=outputs == 65)
            self.limit(0.6)
        yield from self.problem(f"rows of {tuple(self.x.shape[1:])}")

    def problem(self, name: str) -> Iterator[PlanProblem]:
        """Yield the problem, with NaN in its second sample, unless the backend rejects a layer."""
        if not self.rejected:
            self.x[1].view(-1)[-1] = torch.nan
            yield PlanProblem(name, fuse(Program(tuple(self.steps), self.value)), self.x)

    @property
    def value(self) -> Value:
        """The value that the last step gives."""
        return Value(len(self.steps))

    def layer(
        self, weight: Encoded, walk: Conv2dShape | None = None, *, norm: bool = False, relu: bool = False
    ) -> _Chain:
        """Add a packed layer, with a batch norm if ``norm`` and a ReLU if ``relu``."""
        size = 0.8 * float(self.values.abs().max())
        layer = problem(weight, self.values, self.scheme(size), conv=walk).to(self.device)
        kernel = None if self.rejected else self.prepare(layer)
        if kernel is None:
            self.rejected = True
            return self
        self.add(PackedStep, layer.request, kernel)
        if norm:
            self.add(BatchNorm, *_statistics(len(weight.scale), self.device), 1e-5)
        return self.relu() if relu else self

    def pool(self, *window: tuple[int, int]) -> _Chain:
        """Add a max pool."""
        return self.add(MaxPool, *window, True)

    def relu(self) -> _Chain:
        """Add a ReLU."""
        return self.add(Relu)

    def limit(self, share: float) -> _Chain:
        """Add a limit of some share of the largest magnitude."""
        return self.add(Limit, float((self.values.abs().max() * share).float()))

    def add(self, kind: type[Step], *facts: object) -> _Chain:
        """Add any step."""
        if not self.rejected:
            step = kind((self.value,), Value(self.value + 1), f"step {self.value}", *facts)
            self.values = step.apply(self.values)
            self.steps.append(step)
        return self


def _statistics(channels: int, device: str) -> list[Tensor]:
    mean, var, weight, bias = torch.randn(4, channels, generator=generator(channels))
    return [part.to(device) for part in (mean, var.abs() + 0.1, weight, bias)]
