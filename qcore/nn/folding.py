"""Folding: a batch norm that directly follows a packed layer becomes part of its scales and its bias."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from qcore.backends.plan import BatchNorm, Value
from qcore.nn.order import follower, is_watched
from qcore.nn.packed import PackedConv2d, PackedLayer, PackedLinear
from qcore.tensor import QTensor

__all__ = ["Norm", "batch_norms", "fold_norms"]

_AFTER: dict[type[nn.Module], type[PackedLayer]] = {nn.BatchNorm1d: PackedLinear, nn.BatchNorm2d: PackedConv2d}


@dataclass(frozen=True)
class Norm:
    """A batch norm of a model, and whether it is or can be part of the layer before it.

    Attributes:
        path: where it stands, or stood.
        layer: path of the packed layer that it directly follows, or None.
        folded: whether it is part of that layer.
        reason: why it cannot be folded; None where it is or can be.
    """

    path: str
    layer: str | None
    folded: bool
    reason: str | None

    def __str__(self) -> str:
        name = f"{self.path or 'the model'}: batch norm"
        if self.folded:
            return f"{name} folded into {self.layer}"
        return f"{name} stays: {self.reason or 'pack(model, fold=True) would fold it'}"


def fold_norms(model: nn.Module, packed: Mapping[str, PackedLayer]) -> dict[str, nn.Module]:
    """Return what to put at which path of ``model`` for its batch norms to be folded; leave the model.

    With ``multiplier`` and ``offset`` those of the batch norm in eval mode, ``multiplier = weight / sqrt(var + eps)``
    and ``offset = bias - mean * multiplier``, a layer gets, in float32,

        scale[row] = scale[row] * multiplier[row];   bias = offset + bias * multiplier, rounded once.

    Integer sums stay what they were. With ``y = acc * s + b`` what the layer gave, an output differs from that of the
    layer and the batch norm by at most ``2**-20 * (|multiplier * acc * s| + |multiplier * b| + |offset|)`` while all of
    these are normal float32 numbers; where sums are float, of ``n`` terms, by at most ``2**-23 * (n + 8)`` times
    ``|multiplier| * (the sum of the terms' magnitudes + |b|) + |offset|``.

    Args:
        model: in eval mode.
        packed: the packed forms of its quantized layers by path, not in the model yet.

    Returns:
        ``packed`` with batch norms folded into it and into the packed layers that stand in the model, and an Identity
        for each of those batch norms. Kernels of folded layers are not chosen.
    """
    layers: dict[str, nn.Module] = dict(packed)
    for norm in batch_norms(model, packed):
        if norm.reason is None and norm.layer is not None and not norm.folded:
            layer = cast(PackedLayer, packed.get(norm.layer) or model.get_submodule(norm.layer))
            layers[norm.layer] = _folded(layer, model.get_submodule(norm.path), norm.path.rpartition(".")[2])
            layers[norm.path] = nn.Identity().eval()
    return layers


def batch_norms(model: nn.Module, packed: Mapping[str, PackedLayer] | None = None) -> list[Norm]:
    """Return the batch norms of ``model``, those folded already among them; ``packed`` as in :func:`fold_norms`."""
    packed = packed or {}
    modules = dict(model.named_modules(remove_duplicate=False))
    places = Counter(id(module) for module in modules.values())
    before = {after: path for path in modules if (after := follower(model, path)) is not None}
    found = []
    for path, module in modules.items():
        layer_path = before.get(path, "")
        standing = modules[layer_path]
        layer = packed.get(layer_path, standing)
        if isinstance(layer, PackedLayer) and layer.folded == path.rpartition(".")[2]:
            found.append(Norm(path, layer_path, True, None))
        elif type(module) in _AFTER:
            once = places[id(module)] == places[id(standing)] == 1
            reason = _reason(module, layer, once=once, watched=is_watched(module) or is_watched(standing))
            found.append(Norm(path, layer_path if isinstance(layer, PackedLayer) else None, False, reason))
    return found


def _reason(norm: nn.Module, layer: nn.Module, *, once: bool, watched: bool) -> str | None:
    """Return why ``norm`` cannot become part of ``layer``, which it follows, or None.

    Args:
        norm: a batch norm.
        layer: what it directly follows; any module but a packed layer where that is nothing.
        once: whether both stand in one place alone.
        watched: whether one of them has hooks, or a forward of its own.
    """
    wanted = _AFTER[type(norm)]
    if not isinstance(layer, wanted):
        kind = "linear layer" if wanted is PackedLinear else "convolution"
        return f"it does not directly follow a packed {kind} in an nn.Sequential"
    if not once:
        return "it or the layer before it stands in several places"
    if watched:
        return "it or the layer before it has hooks, or a forward of its own"
    held = [tensor for tensor in (*norm.parameters(), *norm.buffers()) if tensor.is_floating_point()]
    if getattr(norm, "running_mean", None) is None or getattr(norm, "running_var", None) is None:
        return "it has no running statistics"
    if layer.weight.dtype is not torch.float32 or any(tensor.dtype is not torch.float32 for tensor in held):
        return "folding computes in float32, and its or the layer's numbers are of another dtype"
    multiplier, offset = _numbers(norm)
    if len(multiplier) != layer.weight.shape[0]:
        return f"it has {len(multiplier)} channels, and the layer gives {layer.weight.shape[0]}"
    if not _is_normal(_scale(layer.weight, multiplier), layer.weight.scale, multiplier):
        return "a scale times its multiplier leaves the range of normal float32 numbers"
    if not bool(_bias(layer, multiplier, offset).isfinite().all()):
        return "it gives an offset that is not finite"
    return None


def _is_normal(product: Tensor, scale: Tensor, multiplier: Tensor) -> bool:
    """Return whether no product was rounded beyond float32's usual ``2**-24``."""
    zero = (scale == 0) | (multiplier.view(-1, 1) == 0)
    return bool((zero | (product.isfinite() & (product.abs() >= torch.finfo(torch.float32).tiny))).all())


def _folded(layer: PackedLayer, norm: nn.Module, name: str) -> PackedLayer:
    """Return ``layer`` with ``norm``, which stands beside it under ``name``, folded into it."""
    multiplier, offset = _numbers(norm)
    weight = layer.weight
    scale = _scale(weight, multiplier)
    zero = None if weight.zero_point is None else weight.zero_point.expand(scale.shape).contiguous()
    folded = layer.like(replace(weight, scale=scale, zero_point=zero), _bias(layer, multiplier, offset))
    folded.folded = name
    return folded


def _numbers(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return multiplier and offset, float32 (channels,): those of plans, which are torch's own."""
    norm = cast(nn.BatchNorm1d, norm)
    mean, var = cast(Tensor, norm.running_mean), cast(Tensor, norm.running_var)
    with torch.no_grad():
        return BatchNorm((Value(0),), Value(1), "", mean, var, norm.weight, norm.bias, norm.eps).folded()


def _scale(weight: QTensor, multiplier: Tensor) -> Tensor:
    """Return float32 (rows, 1) or (rows, groups)."""
    return weight.scale * multiplier.view(-1, 1)


def _bias(layer: PackedLayer, multiplier: Tensor, offset: Tensor) -> Tensor:
    """Return float32 (rows,)."""
    if layer.bias is None:
        return offset
    return (offset.double() + layer.bias.double() * multiplier.double()).float()
