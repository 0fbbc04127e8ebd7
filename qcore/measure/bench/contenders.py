"""Who runs: a float layer, our packed layers, and what others make of the same layer."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qcore.backends import BackendChoice, find_backends
from qcore.errors import UsageError
from qcore.measure.bench.plan import Weight
from qcore.measure.bench.timing import Call
from qcore.nn import PackedLinear, pack, quantize
from qcore.quantizers.make import make_quantizer
from qcore.registry import Registry
from qcore.tensor import Encoded, QTensor
from qcore.tensor.integer import TINY, grouped, ungrouped

__all__ = [
    "Contender",
    "deviation",
    "float_contender",
    "module_contender",
    "pack_weight",
    "packed_contender",
    "rotating",
    "ternary",
]

INPUT = "core/int(bits=8, granularity='token')"

Kind = Literal["float", "packed", "peer"]


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One way to compute a layer or a model.

    Attributes:
        kind: the float network, our packed one, or a peer.
        call: computes the output; the input is bound.
        again: a call of the same from weights elsewhere in memory.
        weight_nbytes: bytes of weights and scales that a call reads.
        name: for the table; a peer's adapter leaves it to the peer's label.
        expected: float32, what the output should be near to; None: that of the float network.
        right: float32, what a packed network must give but for rounding; None: ``expected``.
        read: makes a tensor of what ``call`` returns.
        kernel: backend and kernel that run it, or None.
        tolerance: deviation above which a peer computes something else, where it does not tell its rounded weights;
            None: the contest's.
        captured: whether the call replays a CUDA graph.
    """

    kind: Kind
    call: Call
    again: Callable[[], Call]
    weight_nbytes: int
    name: str = ""
    expected: Tensor | None = None
    right: Tensor | None = None
    read: Callable[[Any], Tensor] = cast(Callable[[Any], Tensor], torch.as_tensor)
    kernel: str | None = None
    tolerance: float | None = None
    captured: bool = False


def module_contender(module: nn.Module, x: Tensor, *, kind: Kind, name: str, weight_nbytes: int) -> Contender:
    """Return ``module`` on ``x``; a copy of it has weights of its own."""

    def call_of(twin: nn.Module) -> Call:
        return lambda: twin(x)

    return Contender(
        kind=kind,
        call=call_of(module),
        again=lambda: call_of(copy.deepcopy(module)),
        weight_nbytes=weight_nbytes,
        name=name,
    )


def float_contender(layer: nn.Linear, x: Tensor, name: str) -> Contender:
    """Return torch's own float layer, which all others are compared with."""
    weight = layer.weight
    return module_contender(layer, x, kind="float", name=name, weight_nbytes=weight.element_size() * weight.numel())


def packed_contender(layer: PackedLinear, name: str, x: Tensor) -> Contender:
    """Return our packed ``layer`` on ``x``; its output should be near a float product with its own weights."""
    choice = cast(BackendChoice, layer.choice)
    made = module_contender(layer, x, kind="packed", name=name, weight_nbytes=choice.kernel.nbytes)
    weight, quantizer, numbers = layer.weight.dequantize(), layer.input_quantizer, x.float()
    expected = F.linear(numbers, weight, layer.bias)
    right = expected if quantizer is None else F.linear(quantizer(numbers), weight, layer.bias)
    return replace(made, expected=expected, right=right, kernel=f"{choice.backend}: {choice.kernel.name}")


def pack_weight(
    layer: nn.Linear, weight: Weight, backend: str = "auto", registry: Registry | None = None
) -> PackedLinear:
    """Return ``layer`` packed as ``weight`` says, its kernel chosen.

    Raises:
        BackendError: the named backend cannot run it.
    """
    if weight.bits is None:
        quantizer = None if weight.float_input else make_quantizer(INPUT, registry)
        packed = PackedLinear(ternary(layer.weight.detach(), weight.group_size), layer.bias, quantizer, {})
        candidates, forced = find_backends(backend, registry)
        return packed.prepare(candidates, forced=forced)
    groups = "" if weight.group_size is None else f", granularity='group', group_size={weight.group_size}"
    rule = {"weight": f"core/int(bits={weight.bits}{groups})"} | ({} if weight.float_input else {"input": INPUT})
    model = pack(quantize(nn.Sequential(layer), {"0": rule}, registry=registry), backend, registry=registry)
    return cast(PackedLinear, model[0])  # type: ignore[index]


def ternary(weight: Tensor, group_size: int | None = None) -> QTensor:
    """Return ``weight`` (rows, cols) with codes -1, 0, 1 and a scale a row, or a group of columns.

    ``scale = max(mean |w|, 2**-100)``; ``code = clamp(round(w / scale), -1, 1)``: the absmean rule of BitNet b1.58
    (arXiv 2402.17764, section 2), there with one scale a tensor.
    """
    rows, cols = weight.shape
    groups = grouped(weight, group_size or cols)
    sizes = grouped(weight.new_ones(1, cols), group_size or cols).sum(dim=2)  # the last group may be smaller
    scale = (groups.abs().sum(dim=2) / sizes).clamp_min(TINY)
    codes = ungrouped((groups / scale.unsqueeze(2)).round().clamp(-1, 1), cols).contiguous()
    return QTensor.pack(Encoded(codes, scale, weight.shape, weight.dtype, "ternary", 2, group_size=group_size))


def rotating(contender: Contender, nbytes: int, most: int) -> Call:
    """Return a call that walks over copies of the weights, ``nbytes`` in all, so that each streams from memory.

    Raises:
        UsageError: that takes more than ``most`` copies.
    """
    copies = max(2, -(-nbytes // max(1, contender.weight_nbytes)))
    if copies > most:
        raise UsageError(
            f"{contender.weight_nbytes} bytes are too few to stream from memory: {copies} copies",
            "--cold is for layers whose weights do not fit the caches",
        )
    calls = cycle([contender.call, *(contender.again() for _ in range(copies - 1))])
    return lambda: next(calls)()


def deviation(output: Tensor, expected: Tensor) -> float:
    """Return ``|output - expected| / |expected|`` in the Euclidean norm; infinity where it cannot be told."""
    if output.shape != expected.shape:
        return float("inf")
    error = float((output.float() - expected).norm() / expected.norm().clamp_min(TINY))
    return error if error == error else float("inf")
