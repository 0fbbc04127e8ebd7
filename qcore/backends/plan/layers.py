"""The steps of layers. The docstring of each says what it computes; ``apply`` is that in torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from qcore.backends.base import Kernel, KernelRequest
from qcore.backends.plan.base import FLOAT_BOUND, Shape, Step, mismatch, sum_bound, with_relu
from qcore.tensor import ActivationScheme
from qcore.tensor.arithmetic import Conv2dShape

__all__ = [
    "BatchNorm",
    "Convolution",
    "Flatten",
    "LayerNorm",
    "Linear",
    "MaxPool",
    "PackedStep",
    "Rescaling",
    "SpatialMean",
    "Standardization",
]

Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class BatchNorm(Step):
    """``fma(x, multiplier, offset)`` along axis 1, by the statistics of training; then ReLU if ``relu``.

    Attributes:
        mean, var, weight, bias: float32 (channels,); weight and bias may be None.
        eps: added to the variance.
        relu: whether a ReLU follows.
    """

    mean: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    relu: bool = False

    name: ClassVar[str] = "batch norm"

    @property
    def bound(self) -> float:
        """One rounding, or two."""
        return FLOAT_BOUND

    def infer(self, shape: Shape) -> Shape:
        """Return ``shape``."""
        if shape[0] != len(self.mean):
            raise mismatch(self, f"{len(self.mean)} channels", shape)
        return shape

    def apply(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        return _relu_if(self.relu, F.batch_norm(x, self.mean, self.var, self.weight, self.bias, False, 0.0, self.eps))

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return multiplier and offset, float32 (channels,), as torch has them: its batch norm of ones and of zeros."""
        zeros, ones = torch.zeros_like(self.mean), torch.ones_like(self.mean)
        bias = None if self.bias is None else zeros
        multiplier = F.batch_norm(ones[None], zeros, self.var, self.weight, bias, False, 0.0, self.eps)
        offset = F.batch_norm(zeros[None], self.mean, self.var, self.weight, self.bias, False, 0.0, self.eps)
        return multiplier[0], offset[0]


@dataclass(frozen=True, eq=False)
class PackedStep(Step):
    """A packed layer on its kernel; then a batch norm, a ReLU and a limit, if they are fused into it.

    Attributes:
        request: the layer, described.
        kernel: what runs it outside of plans; made when the model was packed.
        norm: the batch norm that follows, or None.
        relu: whether a ReLU follows.
        limit: the largest output, or None; NaN stays.
        vectors: whether samples are (features,) alone: a batch norm is part of the layer, which goes along axis 1.
        coded: whether the input is codes, by the scheme of the request.
        codes: the scheme by whose codes the output is handed over; None: as floats.
    """

    request: KernelRequest
    kernel: Kernel
    norm: BatchNorm | None = None
    relu: bool = False
    limit: float | None = None
    vectors: bool = False
    coded: bool = False
    codes: ActivationScheme | None = None

    @property
    def bound(self) -> float:
        """The kernel's own, 0 for integer sums; and a batch norm's."""
        return self.kernel.bound + (0.0 if self.norm is None else FLOAT_BOUND)

    @property
    def title(self) -> str:
        """What it does."""
        name = f"packed {self.request.op}"
        name = with_relu(name if self.norm is None else f"{name} + batch norm", self.relu)
        return name if self.limit is None else f"{name} up to {self.limit:g}"

    def infer(self, shape: Shape) -> Shape:
        """Return (..., out_features), or (out_channels, out_height, out_width)."""
        wanted = self.request.weight_shape
        conv = self.request.conv
        if conv is None:
            if shape[-1] != wanted[1] or self.vectors and len(shape) > 1:
                raise mismatch(self, f"(rows, {wanted[1]})" if self.vectors else f"{wanted[1]} features", shape)
            out: Shape = (*shape[:-1], wanted[0])
        else:
            out = _convolved(self, wanted, conv, shape)
        return out if self.norm is None else self.norm.infer(out)

    def apply(self, x: Tensor) -> Tensor:
        """Return the layer's output; given codes, that of numbers which have those codes."""
        if self.coded:
            assert self.request.activation is not None
            x = self.request.activation.values(x)
        y = self.kernel.call(x)
        y = _relu_if(self.relu, y if self.norm is None else self.norm.apply(y))
        y = y if self.limit is None else y.clamp_max(self.limit)
        return y if self.codes is None else self.codes.codes(y)


@dataclass(frozen=True, eq=False)
class Linear(Step):
    """A float layer ``x W^T + b``; in float64 and giving float64 if ``precise``. Then ReLU if ``relu``.

    Attributes:
        weight: float32 (out, features).
        bias: float32 (out,) or None.
        precise: whether it computes in float64.
        relu: whether a ReLU follows.
    """

    weight: Tensor
    bias: Tensor | None
    precise: bool = False
    relu: bool = False

    @property
    def bound(self) -> float:
        """That of its sums."""
        return sum_bound(self.weight.shape[1])

    @property
    def title(self) -> str:
        """What it does."""
        return with_relu("float64 linear" if self.precise else "float linear", self.relu)

    def widens(self, *precise: bool) -> bool:
        """Return whether it is precise; then it takes either."""
        return self.precise or super().widens(*precise)

    def infer(self, shape: Shape) -> Shape:
        """Return (..., out)."""
        if shape[-1] != self.weight.shape[1]:
            raise mismatch(self, f"{self.weight.shape[1]} features", shape)
        return (*shape[:-1], self.weight.shape[0])

    def apply(self, x: Tensor) -> Tensor:
        """Return (rows, ..., out)."""
        dtype = torch.float64 if self.precise else torch.float32
        bias = None if self.bias is None else self.bias.to(dtype)
        return _relu_if(self.relu, F.linear(x.to(dtype), self.weight.to(dtype), bias))


@dataclass(frozen=True, eq=False)
class Convolution(Step):
    """A float convolution; then ReLU if ``relu``.

    Attributes:
        weight: float32 (out_channels, channels / groups, height, width).
        bias: float32 (out_channels,) or None.
        walk: stride, padding, dilation and groups.
        relu: whether a ReLU follows.
    """

    weight: Tensor
    bias: Tensor | None
    walk: Conv2dShape
    relu: bool = False

    name: ClassVar[str] = "float conv2d"

    @property
    def bound(self) -> float:
        """That of its sums."""
        return sum_bound(self.weight[0].numel())

    def infer(self, shape: Shape) -> Shape:
        """Return (out_channels, out_height, out_width)."""
        return _convolved(self, self.weight.shape, self.walk, shape)

    def apply(self, x: Tensor) -> Tensor:
        """Return (rows, out_channels, out_height, out_width)."""
        return _relu_if(self.relu, F.conv2d(x, self.weight, self.bias, *self.walk))


@dataclass(frozen=True, eq=False)
class LayerNorm(Step):
    """``(x - mean) / sqrt(var + eps) * weight + bias`` over the last axis; then ReLU if ``relu``.

    Attributes:
        weight, bias: float32 (features,), or None.
        features: of the last axis.
        eps: added to the variance.
        relu: whether a ReLU follows.
    """

    weight: Tensor | None
    bias: Tensor | None
    features: int
    eps: float
    relu: bool = False

    name: ClassVar[str] = "layer norm"

    @property
    def bound(self) -> float:
        """That of its sums."""
        return FLOAT_BOUND

    def infer(self, shape: Shape) -> Shape:
        """Return ``shape``."""
        if shape[-1] != self.features:
            raise mismatch(self, f"{self.features} features", shape)
        return shape

    def apply(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        return _relu_if(self.relu, F.layer_norm(x, (self.features,), self.weight, self.bias, self.eps))


@dataclass(frozen=True, eq=False)
class Standardization(Step):
    """``(x - mean) / std`` along axis 1; both float32 (features,)."""

    mean: Tensor
    std: Tensor
    name: ClassVar[str] = "standardize"

    def infer(self, shape: Shape) -> Shape:
        """Return ``shape``."""
        if shape[0] != len(self.mean):
            raise mismatch(self, f"{len(self.mean)} features", shape)
        return shape

    def apply(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        along = (-1, *([1] * (x.dim() - 2)))
        return (x - self.mean.view(along)) / self.std.view(along)


@dataclass(frozen=True, eq=False)
class Rescaling(Step):
    """``x * std + mean``, rounded twice, with two numbers, float32 (), or along the last axis, float32 (features,)."""

    mean: Tensor
    std: Tensor
    name: ClassVar[str] = "rescale"

    def infer(self, shape: Shape) -> Shape:
        """Return ``shape``."""
        if self.mean.dim() and shape[-1] != len(self.mean):
            raise mismatch(self, f"{len(self.mean)} features", shape)
        return shape

    def apply(self, x: Tensor) -> Tensor:
        """Return the same shape."""
        return x * self.std + self.mean


@dataclass(frozen=True, eq=False)
class Flatten(Step):
    """All axes of a sample as one; of codes by ``codes``, if that is not None."""

    codes: ActivationScheme | None = None
    name: ClassVar[str] = "flatten"

    def widens(self, *precise: bool) -> bool:
        """Return whether the input is float64."""
        return precise[0]

    def infer(self, shape: Shape) -> Shape:
        """Return (features,)."""
        return (math.prod(shape),)

    def apply(self, x: Tensor) -> Tensor:
        """Return (rows, features)."""
        return x.flatten(1)


@dataclass(frozen=True, eq=False)
class MaxPool(Step):
    """The largest number of each window; a window with NaN gives NaN. Pairs are (height, width).

    Of codes by ``codes``, if that is not None; a window that lies in the padding alone then gives the least code.
    """

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    ceil: bool
    codes: ActivationScheme | None = None
    name: ClassVar[str] = "max pool"

    def infer(self, shape: Shape) -> Shape:
        """Return (channels, out_height, out_width)."""
        if len(shape) != 3:
            raise mismatch(self, "(rows, channels, height, width)", shape)
        size = _walked((shape[1], shape[2]), self.kernel, self.stride, self.padding, self.dilation, ceil=self.ceil)
        if min(size) < 1:
            raise mismatch(self, f"images that a window of {self.kernel} fits", shape)
        return (shape[0], *size)

    def apply(self, x: Tensor) -> Tensor:
        """Return (rows, channels, out_height, out_width)."""
        y = F.max_pool2d(x, self.kernel, self.stride, self.padding, self.dilation, self.ceil)
        return y if self.codes is None else y.clamp_min(float(self.codes.codes(x.new_full((1,), -torch.inf))))


@dataclass(frozen=True, eq=False)
class SpatialMean(Step):
    """The mean over height and width: (channels,), or (channels, 1, 1) if ``keep``."""

    keep: bool
    name: ClassVar[str] = "mean over space"

    @property
    def bound(self) -> float:
        """That of its sums."""
        return FLOAT_BOUND

    def infer(self, shape: Shape) -> Shape:
        """Return (channels,) or (channels, 1, 1)."""
        if len(shape) != 3:
            raise mismatch(self, "(rows, channels, height, width)", shape)
        return (shape[0], 1, 1) if self.keep else shape[:1]

    def apply(self, x: Tensor) -> Tensor:
        """Return (rows, channels) or (rows, channels, 1, 1)."""
        return x.mean(dim=(2, 3), keepdim=self.keep)


def _relu_if(wanted: bool, x: Tensor) -> Tensor:
    return F.relu(x) if wanted else x


def _convolved(step: Step, weight: torch.Size, walk: Conv2dShape, shape: Shape) -> Shape:
    """Return (out_channels, out_height, out_width) of a convolution of images of ``shape``."""
    channels, kernel = weight[1] * walk.groups, (weight[2], weight[3])
    if len(shape) != 3 or shape[0] != channels:
        raise mismatch(step, f"(rows, {channels}, height, width)", shape)
    size = _walked((shape[1], shape[2]), kernel, walk.stride, walk.padding, walk.dilation)
    if min(size) < 1:
        raise mismatch(step, f"images that a kernel of {kernel} fits", shape)
    return (weight[0], *size)


def _walked(size: Pair, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, *, ceil: bool = False) -> Pair:
    """Return how often a window fits along height and width."""

    def along(i: int) -> int:
        left = size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1
        count = (-(-left // stride[i]) if ceil else left // stride[i]) + 1
        # A last window that a rounding up adds must start within the image or its left padding.
        return count - (ceil and (count - 1) * stride[i] >= size[i] + padding[i])

    return along(0), along(1)
