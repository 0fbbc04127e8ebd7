"""PlanBuilder: from modules to the steps of a program."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from qcore.backends.plan import (
    Add,
    BatchNorm,
    Builder,
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
    Softmax,
    SpatialMean,
    Standardization,
    Step,
    Tilt,
    Value,
)
from qcore.errors import UsageError
from qcore.nn.packed import PackedConv2d, PackedLayer
from qcore.nn.plan.fusion import fuse
from qcore.tensor.arithmetic import Conv2dShape

__all__ = ["Pair", "PlanBuilder", "check_padding"]

Pair = tuple[int, int]

_TO_FLOAT = "call model.float() first"


class PlanBuilder(Builder):
    """Collects the steps of one program.

    A module that can say itself in steps has the method ``plan(self, builder: PlanBuilder, x: Value) -> Value``, which
    says what its eval-mode ``forward`` does with ``x``: by ``builder.lower(child, x)`` for its children, and by
    the other methods for its own operations. Tensors that it hands over are copied.

    Attributes:
        input: the value that the program gets.
        device: where the model lies.
    """

    def __init__(self, root: nn.Module, prefix: str = "", device: torch.device | None = None) -> None:
        self.input = Value(0)
        self.device = device or _device_of(root)
        self._steps: list[Step] = []
        self._names = {id(module): f"{prefix}{name}" for name, module in root.named_modules()}
        self._layer = prefix.removesuffix(".")

    def lower(self, module: nn.Module, x: Value, *, precise: bool = False) -> Value:
        """Return what ``module`` gives for ``x``; in float64, of float linear layers and ReLU alone, if ``precise``.

        Raises:
            UsageError: there are no steps for such a module, or not in this state; the module is named.
        """
        from qcore.nn.plan.lowering import lowering_of, precise_lowering_of

        outer, self._layer = self._layer, self._names.get(id(module), self._layer)
        try:
            find = precise_lowering_of if precise else lowering_of
            return find(module, self._layer)(self, x)
        finally:
            self._layer = outer

    def refuse(self, what: str, hint: str) -> UsageError:
        """Return the error that says that ``what`` of the module being lowered has no steps, and what to do."""
        return UsageError(f"a plan has no steps for {self._layer or 'the model'}: {what}", hint)

    def program(self, output: Value) -> Program:
        """Return the program that gives ``output``, with neighbours fused.

        Raises:
            UsageError: a step would get float64 values where it takes float32 ones, or the other way round.
        """
        program = fuse(Program(tuple(self._steps), output))
        program.precise()
        return program

    def packed(self, x: Value, layer: PackedLayer) -> Value:
        """Add a packed layer, on the kernel that it has; a convolution of floats as one with its weight decoded."""
        if layer.choice is None:
            raise self.refuse("its kernel is not chosen", "call qcore.pack(model) first")
        if isinstance(layer, PackedConv2d):
            check_padding(self, layer.padding_mode)
        request = layer.request()
        if request.coded_input:
            hint = f"use an input quantizer such as core/int instead of {type(layer.input_quantizer).__name__}"
            raise self.refuse("its input quantizer is code, not data", hint)
        if layer.conv is not None and not request.integer:
            return self.convolution(x, layer.weight.dequantize(), layer.bias, layer.conv)
        vectors = layer.conv is None and layer.folded is not None
        return self._add(PackedStep(*self._at(x), request, layer.choice.kernel, vectors=vectors))

    def linear(self, x: Value, weight: Tensor, bias: Tensor | None = None, *, precise: bool = False) -> Value:
        """Add ``x W^T + b``, in float64 if ``precise``."""
        own = self._rounded if precise else self._own
        return self._add(Linear(*self._at(x), own(weight), None if bias is None else own(bias), precise))

    def convolution(self, x: Value, weight: Tensor, bias: Tensor | None, walk: Conv2dShape) -> Value:
        """Add a float convolution, padded with zeros."""
        return self._add(Convolution(*self._at(x), self._own(weight), self._optional(bias), walk))

    def layer_norm(self, x: Value, weight: Tensor | None, bias: Tensor | None, features: int, eps: float) -> Value:
        """Add a layer norm over the last axis."""
        norm = LayerNorm(*self._at(x), self._optional(weight), self._optional(bias), features, eps)
        return self._add(norm)

    def batch_norm(
        self, x: Value, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Value:
        """Add a batch norm along axis 1, by given statistics."""
        affine = (self._optional(weight), self._optional(bias))
        return self._add(BatchNorm(*self._at(x), self._own(mean), self._own(var), *affine, eps))

    def standardize(self, x: Value, mean: Tensor, std: Tensor) -> Value:
        """Add ``(x - mean) / std`` along axis 1."""
        return self._add(Standardization(*self._at(x), self._own(mean), self._own(std)))

    def rescale(self, x: Value, mean: Tensor, std: Tensor) -> Value:
        """Add ``x * std + mean``, with two numbers or along the last axis."""
        return self._add(Rescaling(*self._at(x), self._own(mean), self._own(std)))

    def relu(self, x: Value) -> Value:
        """Add ``max(x, 0)``."""
        return self._add(Relu(*self._at(x)))

    def limit(self, x: Value, top: float) -> Value:
        """Add ``min(x, top)``; after a ReLU with a ``top`` of 6 it is a ReLU6."""
        return self._add(Limit(*self._at(x), float(torch.tensor(top, dtype=torch.float32, device="cpu"))))

    def add(self, a: Value, b: Value) -> Value:
        """Add ``a + b``, of two values of one shape."""
        return self._add(Add(*self._at(a, b)))

    def flatten(self, x: Value) -> Value:
        """Add the flattening of each sample."""
        return self._add(Flatten(*self._at(x)))

    def max_pool(self, x: Value, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, *, ceil: bool) -> Value:
        """Add a max pool over height and width."""
        return self._add(MaxPool(*self._at(x), kernel, stride, padding, dilation, ceil))

    def spatial_mean(self, x: Value, *, keep: bool = False) -> Value:
        """Add the mean over height and width; ``keep`` them as 1 x 1."""
        return self._add(SpatialMean(*self._at(x), keep))

    def masked(self, x: Value, masks: Tensor) -> Value:
        """Add ``x`` under each of ``masks`` (M, width); float64."""
        return self._add(MaskedCopies(*self._at(x), _copied(masks, torch.float64)))

    def softmax(self, x: Value) -> Value:
        """Add a softmax over the last axis; float64."""
        return self._add(Softmax(*self._at(x)))

    def pass_mean(self, x: Value) -> Value:
        """Add the mean over the passes of (M, width); float64."""
        return self._add(PassMean(*self._at(x)))

    def disagreement(self, x: Value, kind: Literal["mutual_information", "variance"]) -> Value:
        """Add how far the probabilities of the passes (M, width) disagree; float64."""
        return self._add(Disagreement(*self._at(x), kind))

    def normalise(self, x: Value, low: float, high: float) -> Value:
        """Add ``clip((x - low) / (high - low), 0, 1)``, in float32."""
        return self._add(Normalise(*self._at(x), low, high))

    def tilt(self, p: Value, u: Value, slope: Tensor, intercept: Tensor) -> Value:
        """Add ``p_i exp(u slope_i + intercept_i)``, normalised; float64."""
        numbers = (_copied(slope, torch.float64), _copied(intercept, torch.float64))
        return self._add(Tilt(*self._at(p, u), *numbers))

    def choose(self, p: Value, k: int) -> Value:
        """Add the shares of the ``k`` largest of float64 ``p``; a router ends so."""
        return self._add(Choose(*self._at(p), k))

    def constant(self, x: Value, numbers: Tensor) -> Value:
        """Add the same ``numbers`` for every sample of ``x``, on the model's device."""
        return self._add(Constant(*self._at(x), self._own(numbers).to(self.device)))

    def experts(self, x: Value, weights: Value, experts: Iterable[nn.Module]) -> Value:
        """Add the weighted sum of ``experts``, each on the rows that have a weight for it."""
        bodies = tuple(self._body(expert) for expert in experts)
        return self._add(Experts(*self._at(x, weights), bodies))

    def _body(self, expert: nn.Module) -> Program:
        name = self._names.get(id(expert), self._layer)
        inner = PlanBuilder(expert, f"{name}." if name else "", self.device)
        inner._names[id(expert)] = name
        return inner.program(inner.lower(expert, inner.input))

    def _at(self, *inputs: Value) -> tuple[tuple[Value, ...], Value, str]:
        """Return what every step begins with: inputs, output and layer."""
        return inputs, Value(len(self._steps) + 1), self._layer

    def _add(self, step: Step) -> Value:
        self._steps.append(step)
        return step.output

    def _own(self, tensor: Tensor) -> Tensor:
        """Return a float32 copy for a step that computes in float32 what the module does.

        Raises:
            UsageError: the module computes in another dtype.
        """
        if tensor.is_floating_point() and tensor.dtype is not torch.float32:
            raise self.refuse(f"its numbers are {tensor.dtype}, and a plan computes in float32", _TO_FLOAT)
        return _copied(tensor)

    def _optional(self, tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else self._own(tensor)

    def _rounded(self, tensor: Tensor) -> Tensor:
        """Return a float32 copy for a step that computes in float64: of the same numbers, whatever their dtype.

        Raises:
            UsageError: float32 does not hold them.
        """
        copied = _copied(tensor)
        if tensor.dtype is torch.float64 and bool(((copied.double() != tensor) & ~tensor.isnan()).any()):
            raise self.refuse("its numbers are float64, and float32 does not hold them", _TO_FLOAT)
        return copied


def check_padding(builder: PlanBuilder, mode: str) -> None:
    """Refuse convolutions that pad with anything but zeros."""
    if mode != "zeros":
        raise builder.refuse(f"padding_mode={mode!r}", "pad with zeros, or use it without a plan")


def _copied(tensor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return tensor.detach().to(dtype, copy=True).contiguous()


def _device_of(model: nn.Module) -> torch.device:
    return next((held.device for held in (*model.parameters(), *model.buffers())), torch.device("cpu"))
