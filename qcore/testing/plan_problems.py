"""Plans for backends to compile: each kind of step, alone and behind others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qcore.backends.base import Kernel
from qcore.backends.plan import BatchNorm, Limit, PackedStep, Program, Relu, Step, Value
from qcore.nn.plan.builder import PlanBuilder
from qcore.nn.plan.fusion import fuse
from qcore.tensor import ActivationScheme
from qcore.tensor.arithmetic import Conv2dShape
from qcore.testing.backend_problems import Problem, coded_weight, problem
from qcore.testing.inputs import generator

__all__ = ["PlanProblem", "float_plans", "packed_layers", "packed_plan"]

Build = Callable[[PlanBuilder, Value], Value]
WIDTH = 13


@dataclass(frozen=True)
class PlanProblem:
    """A program and inputs for it.

    Attributes:
        name: for messages.
        program: what the backend is to compile.
        x: float32 (rows, ...).
    """

    name: str
    program: Program
    x: Tensor

    @property
    def bound(self) -> float:
        """What its steps may be off, relative to the largest output."""
        return sum(step.bound for step in self.program.walk())


def float_plans() -> Iterator[PlanProblem]:
    """Yield a plan for each kind of float step, and one of a router."""
    for name, (shape, build) in _BUILDS.items():
        builder = PlanBuilder(nn.Identity())
        program = builder.program(build(builder, builder.input))
        yield PlanProblem(name, program, _drawn(5, *shape, seed=1))


def packed_layers() -> Iterator[Problem]:
    """Yield packed layers for plans: linear ones of several encodings, of tokens, and convolutions."""
    tokens, affine = ActivationScheme(8), ActivationScheme(8, symmetric=False)
    for encoding, bits in (("ternary", 2), ("int", 4), ("uint", 4), ("int", 8)):
        linear = coded_weight(encoding, bits, (WIDTH, 30), "row")
        yield problem(linear, _drawn(5, 30), tokens)
        yield problem(linear, _drawn(2, WIDTH, 30), affine)
        for channels, walk in ((4, _STRIDED), (1, _STRIDED._replace(groups=WIDTH))):
            images = _drawn(2, channels * walk.groups, 9, 8)
            yield problem(coded_weight(encoding, bits, (WIDTH, channels, 3, 2), "row"), images, tokens, conv=walk)
    yield problem(coded_weight("int", torch.tensor([4, 8] * 6 + [4]), (WIDTH, 30), "row"), _drawn(5, 30), tokens)


def packed_plan(layer: Problem, kernel: Kernel, *, norm: bool, limit: float | None = None) -> PlanProblem:
    """Return the plan of ``layer`` on ``kernel`` and a ReLU, with a batch norm between them if ``norm``.

    Outputs go up to ``limit``, if that is not None.
    """
    assert isinstance(layer.x, Tensor)
    steps: list[Step] = [PackedStep((Value(0),), Value(1), "layer", layer.request, kernel)]
    if norm:
        mean, var, weight, bias = (each.to(layer.x.device) for each in _NORM)
        steps.append(BatchNorm((Value(1),), Value(2), "norm", mean, var, weight, bias, 1e-5))
    steps.append(Relu((Value(len(steps)),), Value(len(steps) + 1), "relu"))
    if limit is not None:
        steps.append(Limit((Value(len(steps)),), Value(len(steps) + 1), "limit", limit))
    program = fuse(Program(tuple(steps), Value(len(steps))))
    return PlanProblem(f"{layer.name}, {program.steps[0].title}", program, layer.x)


def _drawn(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def _router(builder: PlanBuilder, x: Value) -> Value:
    masks = (torch.rand(6, 9, generator=generator(3)) < 0.7).double()
    hidden = builder.masked(builder.relu(builder.linear(x, _drawn(9, WIDTH), _drawn(9), precise=True)), masks)
    passes = builder.softmax(builder.linear(hidden, _drawn(3, 9), _drawn(3), precise=True))
    u = builder.normalise(builder.disagreement(passes, "mutual_information"), 0.01, 0.3)
    tilted = builder.tilt(builder.pass_mean(passes), u, torch.arange(3.0), torch.zeros(3))
    return builder.choose(tilted, 2)


def _experts(builder: PlanBuilder, x: Value) -> Value:
    layers = [nn.utils.skip_init(nn.Linear, WIDTH, 4).eval() for _ in range(3)]  # type: ignore[no-untyped-call]
    for i, layer in enumerate(layers):
        layer.load_state_dict({"weight": _drawn(4, WIDTH, seed=i), "bias": _drawn(4, seed=i)})
    return builder.experts(x, _router(builder, x), layers)


_NORM = (_drawn(WIDTH, seed=4), _drawn(WIDTH, seed=5).abs() + 0.1, _drawn(WIDTH, seed=6), _drawn(WIDTH, seed=7))
_POOL: dict[str, tuple[int, int]] = {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 1), "dilation": (1, 2)}
_WALK = Conv2dShape((2, 1), (1, 2), (1, 2), 2)
_STRIDED = Conv2dShape((2, 1), (1, 1), (1, 2))
_BUILDS: dict[str, tuple[tuple[int, ...], Build]] = {
    "linear": ((WIDTH,), lambda b, x: b.linear(x, _drawn(7, WIDTH), _drawn(7))),
    "linear and relu": ((4, WIDTH), lambda b, x: b.relu(b.linear(x, _drawn(7, WIDTH)))),
    "convolution": ((4, 9, 8), lambda b, x: b.relu(b.convolution(x, _drawn(6, 2, 3, 2), _drawn(6), _WALK))),
    "layer norm": ((WIDTH,), lambda b, x: b.relu(b.layer_norm(x, _drawn(WIDTH), None, WIDTH, 1e-5))),
    "batch norm": ((WIDTH,), lambda b, x: b.batch_norm(x, *_NORM, 1e-5)),
    "batch norm of images": ((WIDTH, 3, 5), lambda b, x: b.relu(b.batch_norm(x, *_NORM, 1e-5))),
    "standardize": ((WIDTH, 3, 5), lambda b, x: b.standardize(x, *_NORM[:2])),
    "rescale": ((WIDTH,), lambda b, x: b.rescale(x, torch.tensor(0.3), torch.tensor(1.7))),
    "rescale each output": ((WIDTH,), lambda b, x: b.rescale(x, *_NORM[:2])),
    "add": ((3, 4, 5), lambda b, x: b.add(b.rescale(x, torch.tensor(0.3), torch.tensor(1.7)), x)),
    "add and relu": ((WIDTH,), lambda b, x: b.relu(b.add(x, b.linear(x, _drawn(WIDTH, WIDTH), _drawn(WIDTH))))),
    "limit": ((3, 4, 5), lambda b, x: b.limit(b.relu(x), 0.7)),
    "limit of a sum": (
        (WIDTH,),
        lambda b, x: b.limit(b.add(x, b.rescale(x, torch.tensor(0.3), torch.tensor(1.7))), 0.7),
    ),
    "relu and flatten": ((3, 4, 5), lambda b, x: b.flatten(b.relu(x))),
    "max pool": ((3, 9, 8), lambda b, x: b.max_pool(x, **_POOL, ceil=True)),
    "mean over space": ((3, 9, 8), lambda b, x: b.spatial_mean(x)),
    "constant": ((WIDTH,), lambda b, x: b.constant(x, _drawn(4))),
    "router": ((WIDTH,), _router),
    "experts": ((WIDTH,), _experts),
}
