"""Layers that train fake-quantized and evaluate as the hardware will."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from qcore.errors import ConfigError
from qcore.quantizers.base import Quantizer
from qcore.tensor import Encoded
from qcore.tensor.arithmetic import Conv2dShape
from qcore.tensor.integer import as_tokens
from qcore.tensor.layers import conv2d, linear, reshaped

__all__ = ["QuantConv2d", "QuantLayer", "QuantLinear", "conv_shape", "encode_input", "pad_input"]


class QuantLayer(nn.Module):
    """What quantized layers share: a float weight and bias, and a quantizer for the weight, the input, or both.

    In training, floats pass through the quantizers (``y = f(q_x(x), q_w(w)) + b``), differentiably. In eval mode a
    layer whose weight and input are both quantized computes in integers, see :mod:`qcore.tensor.arithmetic`; nothing
    has a gradient then.

    Attributes:
        weight: float, the shape of the layer it replaces; the same Parameter.
        bias: float (out,), or None.
        weight_quantizer, input_quantizer: Quantizer or None; not both None.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    weight_quantizer: Quantizer | None
    input_quantizer: Quantizer | None

    def __init__(self, layer: nn.Linear | nn.Conv2d, weight: Quantizer | None, input: Quantizer | None) -> None:
        super().__init__()
        if weight is None and input is None:
            raise ConfigError("a quantized layer needs a quantizer for its weight, its input, or both")
        if not isinstance(layer.weight, nn.Parameter):
            raise ConfigError(
                f"the weight of this {type(layer).__name__} is computed, not a parameter",
                "remove what computes it first, such as weight_norm",
            )
        if input is not None:
            check_input_quantizer(input)
        self.weight = layer.weight
        self.bias = cast(nn.Parameter | None, layer.bias)
        self.weight_quantizer = weight
        self.input_quantizer = input
        self.train(layer.training)
        if weight is not None:
            weight.initialize(self.weight.detach())

    def fake_weight(self) -> Tensor:
        """Return the weight as the layer uses it in training, fake-quantized if it has a quantizer."""
        weight = self.scaled_weight()
        return weight if self.weight_quantizer is None else self.weight_quantizer(weight)

    def coded_weight(self) -> Encoded:
        """Return the weight's codes; the layer must have a weight quantizer."""
        return cast(Quantizer, self.weight_quantizer).encode(self.scaled_weight())

    def scaled_weight(self) -> Tensor:
        """Return the weight that is quantized: its columns times what the input's columns are divided by, if so."""
        scale = None if self.input_quantizer is None else self.input_quantizer.column_scale()
        return self.weight if scale is None else self.weight * scale.detach().to(self.weight.dtype)


class QuantLinear(QuantLayer):
    """A linear layer ``y = x W^T + b`` with quantized weight, input, or both; ``x`` is (..., in_features)."""

    def __init__(self, layer: nn.Linear, weight: Quantizer | None, input: Quantizer | None) -> None:
        super().__init__(layer, weight, input)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        if input is not None:
            input.expect_features(layer.in_features)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_features)."""
        if self.training or self.weight_quantizer is None:
            x = x if self.input_quantizer is None else self.input_quantizer(as_tokens(x)).reshape(x.shape)
            return F.linear(x, self.fake_weight(), self.bias)
        return linear(encode_input(self.input_quantizer, x, as_tokens(x)), self.coded_weight(), self.bias)

    def extra_repr(self) -> str:
        """Return the layer's shape."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class QuantConv2d(QuantLayer):
    """A convolution with quantized weight, input, or both; ``x`` is (n, channels, height, width), or one image alone.

    A per-token input quantizer takes a sample as a token.
    """

    def __init__(self, layer: nn.Conv2d, weight: Quantizer | None, input: Quantizer | None) -> None:
        super().__init__(layer, weight, input)
        if input is not None and type(input).column_scale is not Quantizer.column_scale:
            raise ConfigError(
                f"{input.tensor_name} would have a scale for each feature: that is for linear layers alone",
                "use one range for the tensor or for a token",
            )
        self.shape = conv_shape(layer)
        self.padding_mode = layer.padding_mode
        self.reversed_padding: list[int] = list(layer._reversed_padding_repeated_twice)

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, out_channels, out_height, out_width)."""
        if x.dim() == 3:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        x, shape = pad_input(x, self.shape, self.padding_mode, self.reversed_padding)
        if self.training or self.weight_quantizer is None:
            quantizer = self.input_quantizer
            x = x if quantizer is None else quantizer(x.flatten(1)).reshape(x.shape)
            return F.conv2d(x, self.fake_weight(), self.bias, *shape)
        return conv2d(encode_input(self.input_quantizer, x, x.flatten(1)), self.coded_weight(), self.bias, shape)

    def extra_repr(self) -> str:
        """Return the weight's shape and how it walks."""
        return f"{tuple(self.weight.shape)}, {self.shape}"


def check_input_quantizer(quantizer: Quantizer) -> None:
    """Refuse what can never serve as an input quantizer, before any training.

    Raises:
        ConfigError: it has scales for groups of columns, or static ones for rows, whose number differs from batch to
            batch.
    """
    granularity = getattr(quantizer.config, "granularity", None)
    static = not getattr(quantizer.config, "dynamic", True)
    if granularity == "group" or granularity == "row" and static:
        raise ConfigError(
            f"{quantizer.tensor_name} cannot have {'static ' if static else ''}scales per {granularity}",
            "use granularity='token' for inputs, or 'tensor' for a static range",
        )


def encode_input(quantizer: Quantizer | None, x: Tensor, tokens: Tensor) -> Tensor | Encoded:
    """Return ``x`` coded by ``quantizer``; ``x`` itself without one.

    Args:
        quantizer: what codes it.
        x: a layer's input.
        tokens: the same as (tokens, features); a sample is one token of an image layer.

    Raises:
        ConfigError: the codes do not have one scale a token or one for all.
    """
    if quantizer is None:
        return x
    coded = quantizer.encode(tokens)
    if coded.scale.shape[1] != 1 or coded.scale.shape[0] not in (1, tokens.shape[0]):
        raise ConfigError(
            f"{quantizer.tensor_name} has scales {tuple(coded.scale.shape)}: a layer's input takes one a token, or one",
            "use granularity 'token' or 'tensor' for inputs",
        )
    return reshaped(coded, x.shape)


def conv_shape(layer: nn.Conv2d) -> Conv2dShape:
    """Return how ``layer`` walks, with its padding in pixels; padding that is not zeros is applied apart."""
    if layer.padding_mode != "zeros":
        padding = (0, 0)
    elif isinstance(layer.padding, str):
        left_top = layer._reversed_padding_repeated_twice
        if left_top[0] != left_top[1] or left_top[2] != left_top[3]:
            raise ConfigError(f"padding={layer.padding!r} pads one side more than the other, which is not supported")
        padding = (left_top[2], left_top[0])
    else:
        padding = cast(tuple[int, int], layer.padding)
    stride, dilation = cast(tuple[int, int], layer.stride), cast(tuple[int, int], layer.dilation)
    return Conv2dShape(stride, padding, dilation, layer.groups)


def pad_input(x: Tensor, shape: Conv2dShape, mode: str, reversed_padding: list[int]) -> tuple[Tensor, Conv2dShape]:
    """Return ``x`` padded by a mode other than zeros, and how the convolution then walks."""
    if mode == "zeros":
        return x, shape
    return F.pad(x, reversed_padding, mode=mode), shape._replace(padding=(0, 0))


def is_quantizable(module: nn.Module) -> bool:
    """Return whether rules apply to ``module``: a linear layer or a two-dimensional convolution of its own right."""
    return type(module) in (nn.Linear, nn.Conv2d)


def make_layer(layer: nn.Module, weight: Quantizer | None, input: Quantizer | None) -> QuantLayer:
    """Return the quantized layer for ``layer``."""
    if isinstance(layer, nn.Linear):
        return QuantLinear(layer, weight, input)
    return QuantConv2d(cast(nn.Conv2d, layer), weight, input)
