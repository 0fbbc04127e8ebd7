"""Sorting: the neurons between two packed layers in the order of their widths, so that each width is one block."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from qcore.nn.dropout import Dropout
from qcore.nn.order import chains, is_watched
from qcore.nn.packed import PackedLinear
from qcore.tensor import QTensor

__all__ = ["Sorting", "find_sortings", "sort_neurons"]

_ELEMENTWISE = (nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardtanh, nn.Dropout, Dropout)
"""What may stand between two layers: in eval mode, a number's place does not matter to it. It does, in the last bit, to
vectorised functions such as tanh, which compute the end of a tensor otherwise."""


@dataclass(frozen=True)
class Sorting:
    """The neurons between two packed linear layers, where rows or input columns differ in width.

    Attributes:
        first: path of the layer whose rows they are.
        second: path of the layer whose columns they are.
        sorted: whether they stand in the order of (bits of the row, bits of the column).
        reason: why they cannot be sorted; None where they are or can be.
    """

    first: str
    second: str
    sorted: bool
    reason: str | None

    def __str__(self) -> str:
        name = f"{self.first} -> {self.second}"
        if self.sorted:
            return f"{name}: neurons sorted by their widths"
        return f"{name}: neurons not sorted by their widths: {self.reason or 'they were packed so'}"


def sort_neurons(model: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return ``layers`` with the neurons between packed linear layers sorted by (row bits, column bits).

    Rows of the first layer (codes, scales, zero points, bias) and columns of the second (codes, and what its input
    quantizer holds for each) move together. Integer sums and the codes of inputs do not change, so that a network whose
    second layer is integer gives the same bits; a weight-only one sums in another order, and its kernel's bound says
    so.

    Args:
        model: in eval mode; left alone.
        layers: what will stand at which path of it: packed layers, and an Identity for each folded batch norm.
    """
    made = dict(layers)
    for pair in _pairs(model, made):
        first, second = _layer(model, made, pair.first), _layer(model, made, pair.second)
        if pair.reason is not None or pair.first not in made or pair.second not in made:
            continue
        order = _order(first, second)
        if order is None:
            continue
        moved = _with_columns(second, order)
        if moved is not None:
            made[pair.first], made[pair.second] = _with_rows(first, order), moved
    return made


def find_sortings(model: nn.Module) -> list[Sorting]:
    """Return the pairs of packed layers of ``model`` whose neurons differ in width."""
    found = []
    for pair in _pairs(model, {}):
        order = _order(_layer(model, {}, pair.first), _layer(model, {}, pair.second))
        found.append(replace(pair, sorted=order is None, reason=None if order is None else pair.reason))
    return found


def _pairs(model: nn.Module, made: Mapping[str, nn.Module]) -> Iterator[Sorting]:
    """Yield the pairs of packed linear layers of which the second takes what the first gives, and widths differ."""
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for chain in chains(model):
        modules = [made.get(path) or model.get_submodule(path) for path in chain]
        ends = [i for i, module in enumerate(modules) if isinstance(module, PackedLinear)]
        for start, end in zip(ends, ends[1:], strict=False):
            first, second = modules[start], modules[end]
            assert isinstance(first, PackedLinear)
            assert isinstance(second, PackedLinear)
            if not _differ(first, second):
                continue
            own = [model.get_submodule(path) for path in chain[start : end + 1]]
            alone = all(places[id(module)] == 1 for module in own) and not any(map(is_watched, own))
            reason = _reason(modules[start : end + 1], alone=alone)
            yield Sorting(chain[start], chain[end], False, reason)


def _differ(first: PackedLinear, second: PackedLinear) -> bool:
    steps = _steps(second)
    return len(first.weight.blocks) > 1 or (steps is not None and bool((steps != steps[0]).any()))


def _reason(modules: list[nn.Module], *, alone: bool) -> str | None:
    """Return why the neurons between the first and the last of ``modules`` must stay where they are, or None."""
    first, second = modules[0], modules[-1]
    assert isinstance(first, PackedLinear)
    assert isinstance(second, PackedLinear)
    others = [type(module).__name__ for module in modules[1:-1] if type(module) not in _ELEMENTWISE]
    if others:
        return f"{', '.join(others)} between them {'minds' if len(others) == 1 else 'mind'} which neuron is which"
    if not alone:
        return "one of them stands in several places, has hooks, or a forward of its own"
    if second.weight.group_size is not None:
        return f"{second.weight.group_size} neighbouring columns of the second layer share a scale"
    if first.weight.shape[0] != second.weight.shape[1]:
        return "the layers do not fit each other"
    quantizer = second.input_quantizer
    if quantizer is not None and not copy.deepcopy(quantizer).permute_columns(torch.arange(second.weight.shape[1])):
        return f"{quantizer.tensor_name} does not say how its columns are reordered"
    return None


def _layer(model: nn.Module, made: Mapping[str, nn.Module], path: str) -> PackedLinear:
    layer = made.get(path) or model.get_submodule(path)
    assert isinstance(layer, PackedLinear)
    return layer


def _order(first: PackedLinear, second: PackedLinear) -> Tensor | None:
    """Return int64 (neurons,): which neuron comes where, or None if all are where they belong."""
    steps, bits = _steps(second), first.weight.row_bits()
    order = torch.arange(len(bits), device=bits.device)
    if steps is not None:
        order = torch.argsort(steps.to(bits.device), stable=True, descending=True)  # a longer step is of fewer bits
    order = order[torch.argsort(bits[order], stable=True)]
    return None if torch.equal(order, torch.arange(len(bits), device=bits.device)) else order


def _steps(layer: PackedLinear) -> Tensor | None:
    """Return the steps of the columns of a layer's input, float32 (cols,), where they have some of their own."""
    scheme = None if layer.input_quantizer is None else layer.input_quantizer.scheme()
    return None if scheme is None or scheme.columns is None else scheme.columns.step[0]


def _with_rows(layer: PackedLinear, order: Tensor) -> PackedLinear:
    weight = layer.weight.unpack()
    bits = weight.bits if isinstance(weight.bits, int) else weight.bits[order]
    moved = replace(
        weight,
        codes=weight.codes[order],
        scale=weight.scale if weight.scale.shape[0] == 1 else weight.scale[order],
        zero_point=weight.zero_point
        if weight.zero_point is None or weight.zero_point.shape[0] == 1
        else weight.zero_point[order],
        bits=bits,
    )
    like = layer.like(QTensor.pack(moved, layer.weight.codecs), None if layer.bias is None else layer.bias[order])
    like.folded, like.sorted_columns = layer.folded, layer.sorted_columns
    return like


def _with_columns(layer: PackedLinear, order: Tensor) -> PackedLinear | None:
    """Return ``layer`` with its columns in ``order``, or None if its quantizer does not give in."""
    weight, quantizer = layer.weight.unpack(), copy.deepcopy(layer.input_quantizer)
    if quantizer is not None and not quantizer.permute_columns(order):
        return None
    packed = QTensor.pack(replace(weight, codes=weight.codes[:, order]), layer.weight.codecs)
    like = PackedLinear(packed, layer.bias, quantizer, layer.weight_spec)
    like.folded, like.sorted_columns = layer.folded, True
    return like
