"""Packed layers: low-bit weights as stored, run by a backend's kernel."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from qcore.backends.base import Kernel, KernelRequest
from qcore.backends.choice import BackendChoice, Candidate, choose
from qcore.backends.plan.base import sum_bound
from qcore.errors import CalibrationError, ConfigError, UsageError
from qcore.nn.layers import QuantConv2d, QuantLayer, conv_shape, encode_input, pad_input
from qcore.quantizers.base import Quantizer
from qcore.tensor import QTensor
from qcore.tensor.arithmetic import Conv2dShape
from qcore.tensor.integer import as_tokens

__all__ = [
    "Grouped",
    "PackedConv2d",
    "PackedLayer",
    "PackedLinear",
    "group_experts",
    "kernel_of",
    "pack_layer",
    "walk_of",
]

_PREFIX = "weight_"


class PackedLayer(nn.Module):
    """What packed layers share.

    The packed weight's tensors are buffers (``weight_codes_0``, ``weight_scale``, ...), so that ``to``, ``state_dict``
    and files see them. Training a packed layer is not possible.

    Attributes:
        weight: the QTensor.
        bias: float (out,), or None.
        input_quantizer: Quantizer or None (weight-only).
        weight_spec: id and config of the quantizer that made the weight, for the record.
        folded: name, beside the layer, of the batch norm that is part of its scales and bias; None for none.
        sorted_columns: whether its columns, with the neurons before it, stand in another order than in training.
        choice: the backend and kernel that run the layer.
    """

    bias: Tensor | None

    def __init__(
        self, weight: QTensor, bias: Tensor | None, input: Quantizer | None, weight_spec: Mapping[str, Any]
    ) -> None:
        super().__init__()
        self.input_quantizer = input
        self.weight_spec = dict(weight_spec)
        self.folded: str | None = None
        self.sorted_columns = False
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self._metadata = weight.metadata()
        for name, tensor in weight.tensors().items():
            self.register_buffer(_PREFIX + name, tensor)
        self._candidates: list[Candidate] = []
        self._forced = False
        self._coded_input = False  # known with the kernel: asking at each call costs as much as a small layer
        self.choice: BackendChoice | None = None
        self.register_load_state_dict_post_hook(_prepare_again)  # type: ignore[no-untyped-call]
        self.eval()

    @property
    def weight(self) -> QTensor:
        """The packed weight, sharing the buffers' memory."""
        names = [name for name in self._buffers if name.startswith(_PREFIX)]
        tensors = {name.removeprefix(_PREFIX): cast(Tensor, self._buffers[name]) for name in names}
        return QTensor.from_parts(tensors, self._metadata)

    @property
    def conv(self) -> Conv2dShape | None:
        """How a convolution walks; None for a linear layer."""
        return None

    def request(self) -> KernelRequest:
        """Return what a backend must run."""
        weight = self.weight
        quantizer = self.input_quantizer
        scheme = None if quantizer is None else quantizer.scheme()
        rows, groups = weight.scale.shape
        return KernelRequest(
            op="linear" if self.conv is None else "conv2d",
            encoding=weight.encoding,
            bits=tuple(sorted({block.bits for block in weight.blocks})),
            scales="group" if groups > 1 else "row" if rows > 1 else "tensor",
            group_size=weight.group_size,
            zero_point=weight.zero_point is not None,
            activation=scheme,
            coded_input=quantizer is not None and scheme is None,
            weight_shape=weight.shape,
            conv=self.conv,
            device=weight.scale.device,
            dtype=weight.dtype,
        )

    def prepare(self, candidates: list[Candidate], *, forced: bool) -> Self:
        """Choose a backend among ``candidates`` and let it repack the weight.

        Raises:
            BackendError: none of them can, or the forced one cannot.
        """
        request = self.request()
        choice = choose(request, self.weight, self.bias, candidates, forced=forced)
        if self.sorted_columns and not request.integer:  # its sums are those of eval in another order
            bound = max(choice.kernel.bound, sum_bound(request.weight_shape[1]))
            choice = replace(choice, kernel=replace(choice.kernel, bound=bound))
        self.choice = choice
        self._candidates, self._forced, self._coded_input = candidates, forced, request.coded_input
        return self

    def describe(self) -> dict[str, Any]:
        """Return what a file says of the layer, as plain JSON data."""
        quantizer, weight = self.input_quantizer, self.weight
        rows_sorted = len(weight.blocks) > 1 and weight.row_order is None
        places = [name for name, is_so in (("rows", rows_sorted), ("columns", self.sorted_columns)) if is_so]
        optional = {"folded": self.folded, "sorted": places or None}
        return {
            "kind": "linear" if self.conv is None else "conv2d",
            "weight": self.weight_spec,
            "packed": weight.metadata(),
            "bias": self.bias is not None,
            "input": None if quantizer is None else quantizer.describe(),
        } | {key: value for key, value in optional.items() if value is not None}

    def like(self, weight: QTensor, bias: Tensor | None) -> Self:
        """Return such a layer of another ``weight`` and ``bias``; its kernel is not chosen."""
        return type(self)(weight, bias, self.input_quantizer, self.weight_spec)

    def extra_repr(self) -> str:
        """Return shape, bits and backend."""
        weight = self.weight
        backend = "no backend yet" if self.choice is None else self.choice.backend
        folded = "" if self.folded is None else f", batch norm {self.folded} folded"
        return f"{tuple(weight.shape)}, {weight.effective_bits:.3g} bits a weight{folded}, {backend}"

    def run(self, x: Tensor) -> Tensor:
        """Call the kernel on a layer's input."""
        choice = cast(BackendChoice, self.choice)
        if self._coded_input:
            return choice.kernel.call(encode_input(self.input_quantizer, x, self.tokens(x)))
        return choice.kernel.call(x)

    def tokens(self, x: Tensor) -> Tensor:
        """View a layer's input as (tokens, features)."""
        return as_tokens(x) if self.conv is None else x.flatten(1)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: packed weights do not train."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # Scales stay float32 whatever model.half() asks: the numbers are those that were trained. Only devices change.
        super()._apply(lambda t: t.to(fn(t.new_empty(0)).device), recurse)  # type: ignore[no-untyped-call]
        if self._candidates:
            self.prepare(self._candidates, forced=self._forced)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        shared = {"choice": None, "_candidates": self._candidates}  # backends are shared, kernels are made anew
        own = {name: copy.deepcopy(value, memo) for name, value in self.__dict__.items() if name not in shared}
        copied.__dict__.update(own | shared)
        if self._candidates:
            copied.prepare(self._candidates, forced=self._forced)
        return copied


def _prepare_again(layer: PackedLayer, _: object) -> None:
    """Make the kernel anew after ``load_state_dict``: it holds its own layout of the weight."""
    if layer._candidates:
        layer.prepare(layer._candidates, forced=layer._forced)


class PackedLinear(PackedLayer):
    """A linear layer with packed weight: ``x`` (..., in_features) to (..., out_features)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out_features)."""
        if self._coded_input or self.folded is not None or self.choice is None:
            return self.run(x)
        return self.choice.kernel.call(x)  # as run(), without its call, which a small layer at batch 1 feels

    def run(self, x: Tensor) -> Tensor:
        """Call the kernel on (..., in_features).

        Raises:
            UsageError: a batch norm is folded into the layer, and would take the second of three axes, not the last.
        """
        if self.folded is not None and x.dim() > 2:
            raise UsageError(
                f"a linear layer with a batch norm folded into it takes (rows, features), not {tuple(x.shape)}",
                "pack without fold=True",
            )
        return super().run(x)


class PackedConv2d(PackedLayer):
    """A convolution with packed weight: ``x`` is (n, channels, height, width), or one image alone."""

    def __init__(
        self,
        weight: QTensor,
        bias: Tensor | None,
        input: Quantizer | None,
        weight_spec: Mapping[str, Any],
        shape: Conv2dShape,
        padding_mode: str = "zeros",
        reversed_padding: tuple[int, ...] = (),
    ) -> None:
        super().__init__(weight, bias, input, weight_spec)
        self.shape = shape
        self.padding_mode = padding_mode
        self.reversed_padding = list(reversed_padding)

    @property
    def conv(self) -> Conv2dShape:
        """How the convolution walks over its input, padded already if the padding is not zeros."""
        return self.shape if self.padding_mode == "zeros" else self.shape._replace(padding=(0, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, out_channels, out_height, out_width)."""
        if x.dim() == 3:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        return self.run(pad_input(x, self.shape, self.padding_mode, self.reversed_padding)[0])

    def describe(self) -> dict[str, Any]:
        """Return what a file says of the layer, as plain JSON data."""
        return super().describe() | {"conv": walk_of(self)}

    def like(self, weight: QTensor, bias: Tensor | None) -> Self:
        """Return such a layer of another ``weight`` and ``bias``; its kernel is not chosen."""
        walk = (self.shape, self.padding_mode, tuple(self.reversed_padding))
        return type(self)(weight, bias, self.input_quantizer, self.weight_spec, *walk)


def walk_of(layer: nn.Conv2d | QuantConv2d | PackedConv2d) -> dict[str, Any]:
    """Return how a convolution walks and pads, as plain JSON data."""
    if isinstance(layer, nn.Conv2d):
        shape, padding = conv_shape(layer), list(layer._reversed_padding_repeated_twice)
    else:
        shape, padding = layer.shape, layer.reversed_padding
    return {
        "stride": list(shape.stride),
        "padding": list(shape.padding),
        "dilation": list(shape.dilation),
        "groups": shape.groups,
        "padding_mode": layer.padding_mode,
        "reversed_padding": padding,
    }


def pack_layer(layer: QuantLayer) -> PackedLayer:
    """Return ``layer`` with its weight packed; its kernel is not chosen yet.

    Raises:
        CalibrationError: the input's static range was never set.
        ConfigError: a convolution's input has columns of its own widths, as only linear layers can have.
        QuantizationError: the weight holds NaN or infinity.
    """
    quantizer = cast(Quantizer, layer.weight_quantizer)
    inputs = layer.input_quantizer
    if inputs is not None and inputs.needs_calibration:
        raise CalibrationError(
            f"{inputs.tensor_name} has a static range that was never set", "call qcore.calibrate(model, batches) first"
        )
    scheme = None if inputs is None else inputs.scheme()
    if scheme is not None and scheme.columns is not None and isinstance(layer, QuantConv2d):
        raise ConfigError(
            "the input of a convolution cannot have a width for each column", "use one range for it, or one a token"
        )
    with torch.no_grad():
        weight = quantizer.quantize(layer.scaled_weight())
    common = (weight, layer.bias, None if inputs is None else inputs.packed(), quantizer.describe())
    if isinstance(layer, QuantConv2d):
        return PackedConv2d(*common, layer.shape, layer.padding_mode, tuple(layer.reversed_padding))
    return PackedLinear(*common)


Grouped = Callable[[Tensor, Tensor], Tensor]
"""Maps ``x`` (rows, features) and weights (rows, experts) to the weighted sum of the experts."""


def kernel_of(expert: nn.Module) -> Kernel | None:
    """Return the kernel of an expert that is a packed linear layer and nothing more, or None."""
    if type(expert) is not PackedLinear or expert.choice is None or expert._coded_input:
        return None
    return None if expert._forward_hooks or expert._forward_pre_hooks else expert.choice.kernel


def group_experts(experts: Iterable[nn.Module]) -> Grouped | None:
    """Return what runs packed linear layers of one shape in one call; None if they are not, or no backend does."""
    layers = [expert for expert in experts if isinstance(expert, PackedLinear)]
    kernels = [kernel for kernel in map(kernel_of, layers) if kernel is not None]
    if not layers or len(kernels) < len(list(experts)):
        return None
    ids = {layer.choice.backend for layer in layers if layer.choice is not None}
    shapes = {layer.weight.shape for layer in layers}
    if len(ids) > 1 or len(shapes) > 1:
        return None
    return next(c.backend.experts(kernels) for c in layers[0]._candidates if c.id in ids)
