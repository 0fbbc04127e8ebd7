"""Plans: from the steps of a program to one compiled object that runs them all in one call."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import singledispatchmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qcore.backends.plan import (
    Add,
    BatchNorm,
    Choose,
    Constant,
    Convolution,
    Disagreement,
    Experts,
    Flatten,
    LayerNorm,
    Limit,
    Linear,
    MaskedCopies,
    MaxPool,
    Normalise,
    PackedStep,
    PassMean,
    Program,
    Relu,
    Rescaling,
    Shape,
    Softmax,
    SpatialMean,
    Standardization,
    Step,
    Tilt,
    Value,
)
from qcore.errors import UsageError
from qcore.tensor import ActivationScheme
from qcore_backend_cpu.kernel import CpuKernel
from qcore_backend_cpu.native import chosen_isa, load
from qcore_backend_cpu.prepare import static_numbers

__all__ = ["Assembly", "refusal"]

_MOST_AXES = 3
_PANEL, _BLOCK = 128, 16  # PANEL_OUTPUTS and OUTPUT_BLOCK of src/floats.hpp


def refusal(program: Program) -> str | None:
    """Return why ``program`` cannot be compiled, or None."""
    for step in program.walk():
        where = step.layer or "the model"
        if isinstance(step, PackedStep) and not isinstance(step.kernel, CpuKernel):
            return f"{where} runs on another backend's kernel ({step.kernel.name})"
        if isinstance(step, PackedStep) and step.request.dtype is not torch.float32:
            return f"{where} is in {step.request.dtype}, and plans are float32"
        if isinstance(step, Rescaling) and step.mean.dim():
            return f"{where} rescales each output by numbers of its own"
        if type(step) not in _KNOWN:
            return f"{where}: it has no step {step.title!r}"
        if any(isinstance(value, Tensor) and value.device.type != "cpu" for value in vars(step).values()):
            return f"{where} is not on the CPU"
    return None


class Assembly:
    """A program, compiled; for each shape of samples it makes what runs them.

    Attributes:
        program: what is compiled.
    """

    def __init__(self, program: Program) -> None:
        module, _ = load()
        self.program = program
        self._native = module.Program(chosen_isa())
        self._kept: list[Tensor] = []  # the compiled steps read their memory
        self._numbers: dict[Value, int] = {Value(0): 0}  # theirs of our values
        self._wide = program.precise()
        self._bodies: list[tuple[Assembly, ...]] = []
        for step in program.steps:
            self.add(step)

    def __call__(self, shape: Shape) -> Callable[[Tensor], Tensor]:
        """Return what runs samples of ``shape``."""
        placement = self.place(shape)
        out = self.program.shapes(shape)[self.program.output]
        run: Callable[..., None] = placement.run
        threads = torch.get_num_threads

        def call(x: Tensor) -> Tensor:
            if not x.is_contiguous():
                x = x.contiguous()
            rows = x.shape[0]
            y = x.new_empty((rows, *out))
            run(x.data_ptr(), rows, y.data_ptr(), threads())
            return y

        vars(call)["assembly"] = self  # what runs reads its tensors
        return call

    def place(self, shape: Shape) -> Any:
        """Return the compiled placement of values for samples of ``shape``.

        Raises:
            UsageError: they do not fit a step.
        """
        shapes = self.program.shapes(shape)
        most = max(len(found) for found in shapes.values())
        if most > _MOST_AXES or min(len(found) for found in shapes.values()) < 1:
            raise UsageError(f"samples of a plan have 1 to {_MOST_AXES} axes, not {shape}")
        ordered = [list(shapes[value]) for value in sorted(self._numbers, key=self._numbers.__getitem__)]
        bodies = [
            [body.place(shapes[step.inputs[0]]) for body in inner]
            for step, inner in zip(self.program.steps, self._bodies, strict=True)
        ]
        return self._native.place(self._numbers[self.program.output], ordered, bodies)

    def _begin(self, step: Step, bodies: tuple[Assembly, ...] = ()) -> tuple[int, ...]:
        """Note a step; return the numbers of its inputs and its output."""
        inputs = [self._numbers[value] for value in step.inputs]
        self._bodies.append(bodies)
        self._numbers[step.output] = len(self._numbers)
        return (*inputs, self._numbers[step.output])

    def _address(self, tensor: Tensor | None, dtype: torch.dtype = torch.float32) -> int:
        if tensor is None:
            return 0
        self._kept.append(tensor.detach().to(dtype).contiguous())
        return self._kept[-1].data_ptr()

    def _finish(self, norm: BatchNorm | None, relu: bool) -> tuple[int, int, bool]:
        if norm is None:
            return 0, 0, relu
        multiplier, offset = norm.folded()
        return self._address(multiplier), self._address(offset), relu

    @singledispatchmethod
    def add(self, step: Step) -> None:
        """Add a step to the compiled program."""
        raise NotImplementedError(type(step).__name__)

    @add.register
    def _(self, step: PackedStep) -> None:
        assert isinstance(step.kernel, CpuKernel)
        self._kept += step.kernel.blocks
        blocks = [block.data_ptr() for block in step.kernel.blocks]
        places = self._begin(step)
        finish = (*self._finish(step.norm, step.relu), math.inf if step.limit is None else step.limit)
        conv, exchange = step.request.conv, (step.coded, _numbers(step.codes))
        if conv is None:
            self._native.packed_linear(*places, blocks[0], *finish, *exchange)
            return
        walk = [*step.request.weight_shape[2:], *conv.stride, *conv.padding, *conv.dilation]
        self._native.packed_convolution(*places, blocks, walk, *finish, *exchange)

    @add.register
    def _(self, step: Linear) -> None:
        outputs, features = step.weight.shape
        wide_input = step.inputs[0] in self._wide
        panels, bias = (self._address(part) for part in _panels(step.weight, step.bias))
        places = self._begin(step)
        self._native.linear(*places, panels, bias, features, outputs, wide_input, step.precise, step.relu)

    @add.register
    def _(self, step: Convolution) -> None:
        walk, (outputs, *window) = step.walk, step.weight.shape
        bias = torch.zeros(outputs, dtype=torch.float32, device="cpu") if step.bias is None else step.bias
        parts = zip(step.weight.flatten(1).chunk(walk.groups), bias.chunk(walk.groups), strict=True)
        weights = [[self._address(part) for part in _panels(*group)] for group in parts]
        panels, biases = [panel for panel, _ in weights], [bias for _, bias in weights]
        size = (math.prod(window), outputs // walk.groups)
        moves = [*window[1:], *walk.stride, *walk.padding, *walk.dilation]
        self._native.convolution(*self._begin(step), panels, biases, *size, moves, step.relu)

    @add.register
    def _(self, step: LayerNorm) -> None:
        weight = torch.ones(step.features, dtype=torch.float32, device="cpu") if step.weight is None else step.weight
        bias = torch.zeros(step.features, dtype=torch.float32, device="cpu") if step.bias is None else step.bias
        numbers = (self._address(weight), self._address(bias), step.eps, step.relu)
        self._native.layer_norm(*self._begin(step), *numbers)

    @add.register
    def _(self, step: BatchNorm) -> None:
        self._native.batch_norm(*self._begin(step), *self._finish(step, step.relu))

    @add.register
    def _(self, step: Standardization) -> None:
        self._native.standardize(*self._begin(step), self._address(step.mean), self._address(step.std))

    @add.register
    def _(self, step: Rescaling) -> None:
        self._native.rescale(*self._begin(step), float(step.mean), float(step.std))

    @add.register
    def _(self, step: Relu) -> None:
        if step.codes is not None:
            self._native.relu_codes(*self._begin(step), _numbers(step.codes))
            return
        wide = step.inputs[0] in self._wide
        self._native.relu(*self._begin(step), wide)

    @add.register
    def _(self, step: Limit) -> None:
        if step.codes is None:
            self._native.limit(*self._begin(step), step.top)
        else:
            self._native.limit_codes(*self._begin(step), step.top, _numbers(step.codes))

    @add.register
    def _(self, step: Add) -> None:
        self._native.add(*self._begin(step), step.relu)

    @add.register
    def _(self, step: Flatten) -> None:
        add = self._native.rename if step.codes is None else self._native.flatten_codes
        add(*self._begin(step))

    @add.register
    def _(self, step: MaxPool) -> None:
        window = [*step.kernel, *step.stride, *step.padding, *step.dilation]
        if step.codes is None:
            self._native.max_pool(*self._begin(step), window)
        else:
            self._native.max_pool_codes(*self._begin(step), window, _numbers(step.codes))

    @add.register
    def _(self, step: SpatialMean) -> None:
        self._native.spatial_mean(*self._begin(step))

    @add.register
    def _(self, step: MaskedCopies) -> None:
        self._native.masks(*self._begin(step), self._address(step.masks, torch.float64))

    @add.register
    def _(self, step: Softmax) -> None:
        self._native.softmax(*self._begin(step))

    @add.register
    def _(self, step: PassMean) -> None:
        self._native.pass_mean(*self._begin(step))

    @add.register
    def _(self, step: Disagreement) -> None:
        self._native.disagreement(*self._begin(step), step.kind == "variance")

    @add.register
    def _(self, step: Normalise) -> None:
        self._native.normalise(*self._begin(step), step.low, step.high)

    @add.register
    def _(self, step: Tilt) -> None:
        numbers = (self._address(step.slope, torch.float64), self._address(step.intercept, torch.float64))
        self._native.tilt(*self._begin(step), *numbers)

    @add.register
    def _(self, step: Choose) -> None:
        self._native.choose(*self._begin(step), step.k)

    @add.register
    def _(self, step: Constant) -> None:
        self._native.constant(*self._begin(step), self._address(step.numbers))

    @add.register
    def _(self, step: Experts) -> None:
        self._native.experts(*self._begin(step, tuple(Assembly(body) for body in step.bodies)))


_KNOWN = frozenset(vars(Assembly)["add"].dispatcher.registry)


def _numbers(scheme: ActivationScheme | None) -> tuple[int, bool, float, float, float] | None:
    return None if scheme is None else static_numbers(scheme)


def _panels(weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return a float weight and its bias as the kernels read them: see ``FloatWeight`` in src/floats.hpp."""
    outputs = weight.shape[0]
    padded = F.pad(weight, (0, 0, 0, -outputs % _BLOCK))
    panels = torch.cat([panel.t().reshape(-1) for panel in torch.split(padded, _PANEL)])
    zeros = torch.zeros(padded.shape[0], dtype=torch.float32, device="cpu")
    if bias is not None:
        zeros[:outputs] = bias
    return panels, zeros
