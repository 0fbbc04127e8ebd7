"""Layers whose weights are packed 4-bit codes in training too, and whose backward pass trains them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qcore.nn.dropout import generator_on
from qcore.nn.layers import conv_shape, pad_input
from qcore.tensor import Encoded
from qcore_true4bit.resident.codes import LARGEST, best_scale, mean_scale, pack_codes, round_stochastic, unpack_codes
from qcore_true4bit.resident.config import ResidentConfig
from qcore_true4bit.resident.moments import make_moments
from qcore_true4bit.resident.operation import resident_operation

__all__ = ["ResidentConv2d", "ResidentLayer", "ResidentLinear"]


class ResidentLayer(nn.Module, ABC):
    """A layer without a float weight: ``w = code * scale``, one scale a row (output neuron or channel).

    In training, the backward pass computes the weight's gradient, changes the codes by it at once
    (:func:`qcore_true4bit.resident.update.update`), and frees it; no gradient of the weight is kept, so there is
    nothing to accumulate or to clip over all layers, and each backward pass is a step. In eval mode, or without
    gradient, the layer is an ordinary one.

    A layer must be used once in a forward pass: its first backward pass changes the codes that a second use saw. The
    second raises UsageError. Under torch.distributed gradients are averaged over all ranks first.

    Attributes:
        codes: uint8 (rows, ceil(cols / 2)), two codes of -7..7 a byte, as ``packn@1`` stores them; ``cols`` are the
            inputs of one output.
        first_scale: float32 (rows,), the scales that the layer began with.
        log_gain: float32 (rows,), a parameter: ``scale = first_scale * exp(log_gain)``. So a step of Adam changes a
            scale by a share, however small the scale is, a scale stays above zero, and weight decay leads to the first.
        bias: float32 (rows,), a parameter, or None.
        residual: int8 (rows, cols), or None: what rounding left of each weight, in 1/256 of its scale.
        moments: what the update rule remembers of past gradients. Neither moments nor residual are part of a model's
            file or come back with the best epoch's weights: they are of the last step.
        lr, weight_decay: of the next update; at ``lr = 0`` codes, residual and moments stay as they are.
        generator: what rounding draws from; None: one of its own, of seed 0, is made on first use.
        tensor_name: what errors call the weight.
    """

    codes: Tensor
    first_scale: Tensor
    residual: Tensor | None
    bias: nn.Parameter | None

    def __init__(self, layer: nn.Linear | nn.Conv2d, config: ResidentConfig, generator: torch.Generator) -> None:
        super().__init__()
        weight = layer.weight.detach()
        self.config, self.shape = config, weight.shape
        self.rows, self.cols = weight.shape[0], weight[0].numel()
        matrix = weight.to(torch.float32).flatten(1)
        scale = (best_scale if config.scale == "mse" else mean_scale)(matrix)
        codes = matrix / scale.unsqueeze(1)
        codes = codes.round_() if config.start == "nearest" else round_stochastic(codes, generator)
        self.register_buffer("codes", pack_codes(codes.clamp_(-LARGEST, LARGEST)))
        self.register_buffer("first_scale", scale)
        self.log_gain = nn.Parameter(torch.zeros_like(scale), requires_grad=config.learn_scale)
        self.bias = cast(nn.Parameter | None, layer.bias)
        residual = torch.zeros(self.rows, self.cols, dtype=torch.int8) if config.residual else None
        self.register_buffer("residual", residual, persistent=False)
        self.moments = make_moments(self.rows, self.cols, config)
        self.lr, self.weight_decay = 0.1 if config.unit == "code" else 1e-3, 0.0
        self.generator: torch.Generator | None = None
        self.tensor_name = "weight"
        self.version = 0
        self.to(weight.device).train(layer.training)

    @property
    def scale(self) -> Tensor:
        """The rows' scales, float32 (rows,), without gradient."""
        return self.first_scale * self.log_gain.detach().exp()

    def integer_codes(self) -> Tensor:
        """Return the codes, float32 (rows, cols)."""
        return unpack_codes(self.codes, self.cols)

    def encoded(self) -> Encoded:
        """Return codes and scales."""
        scale = self.scale.unsqueeze(1)
        return Encoded(self.integer_codes(), scale, self.shape, scale.dtype, "int", 4)

    def weight_values(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return ``code * scale`` in the weight's own shape: a new tensor, without gradient."""
        return self.integer_codes().mul_(self.scale.unsqueeze(1)).view(self.shape).to(dtype)

    def own_generator(self) -> torch.Generator:
        """Return ``generator``, made on first use or if the layer has moved to another device."""
        self.generator = generator_on(self.generator, self.codes.device)
        return self.generator

    @abstractmethod
    def apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the layer's output for ``x`` and a weight of ``x``'s dtype."""

    @abstractmethod
    def input_gradient(self, given: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of ``x`` for that of the output."""

    @abstractmethod
    def weight_gradient(self, given: Tensor, x: Tensor, *, bias: bool) -> tuple[Tensor, Tensor | None]:
        """Return the gradients of the weight and, if asked for, of the bias."""


class ResidentLinear(ResidentLayer):
    """A linear layer ``y = x W^T + b``; ``x`` is (..., in_features)."""

    def __init__(self, layer: nn.Linear, config: ResidentConfig, generator: torch.Generator) -> None:
        super().__init__(layer, config, generator)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_features)."""
        return resident_operation(self, x)

    def apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return ``x W^T + b``."""
        return F.linear(x, weight, bias)

    def input_gradient(self, given: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Return ``g W``."""
        return given @ weight

    def weight_gradient(self, given: Tensor, x: Tensor, *, bias: bool) -> tuple[Tensor, Tensor | None]:
        """Return ``g^T x`` and the sum of ``g``."""
        flat = given.reshape(-1, given.shape[-1])
        return flat.t() @ x.reshape(-1, x.shape[-1]), flat.sum(dim=0) if bias else None

    def extra_repr(self) -> str:
        """Return the layer's shape."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class ResidentConv2d(ResidentLayer):
    """A two-dimensional convolution; ``x`` is (n, channels, height, width), or one image alone."""

    def __init__(self, layer: nn.Conv2d, config: ResidentConfig, generator: torch.Generator) -> None:
        super().__init__(layer, config, generator)
        self.walk, self.padding = conv_shape(layer), layer.padding
        self.padding_mode = layer.padding_mode
        self.reversed_padding: list[int] = list(layer._reversed_padding_repeated_twice)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, out_channels, out_height, out_width)."""
        if x.dim() == 3:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        return resident_operation(self, pad_input(x, self.walk, self.padding_mode, self.reversed_padding)[0])

    def apply_weight(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the convolution of ``x``, which is padded already unless by zeros."""
        walk = self.walk
        return F.conv2d(x, weight, bias, walk.stride, walk.padding, walk.dilation, walk.groups)

    def input_gradient(self, given: Tensor, x: Tensor, weight: Tensor) -> Tensor:
        """Return what torch's own convolution returns."""
        return cast(Tensor, self._backward(given, x, weight, [True, False, False])[0])

    def weight_gradient(self, given: Tensor, x: Tensor, *, bias: bool) -> tuple[Tensor, Tensor | None]:
        """Return what torch's own convolution returns; it needs the weight's shape alone."""
        _, weight, offset = self._backward(given, x, x.new_empty(1).expand(self.shape), [False, True, bias])
        return cast(Tensor, weight), offset

    def _backward(self, given: Tensor, x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor | None, ...]:
        walk, unused = self.walk, (False, [0, 0])
        found = torch.ops.aten.convolution_backward(
            given, x, weight, [self.rows], walk.stride, walk.padding, walk.dilation, *unused, walk.groups, wanted
        )
        return cast("tuple[Tensor | None, ...]", tuple(found))

    def extra_repr(self) -> str:
        """Return the weight's shape and how it walks."""
        return f"{tuple(self.shape)}, {self.walk}"
