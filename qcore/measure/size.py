"""Size: bytes that exist, in a file and in memory, and bits a weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from qcore.export import load, to_bytes
from qcore.nn import pack
from qcore.nn.layers import QuantLayer
from qcore.nn.packed import PackedLayer

__all__ = ["Size", "model_size"]

_FLOAT_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a model takes.

    Attributes:
        file_nbytes: its file, header and names included.
        memory_nbytes: its parameters and buffers as loaded, tensors that are shared counted once.
        kernel_nbytes: what the kernels of its packed layers keep beside that, in layouts of their own; 0 without any.
        weight_nbytes: the weights of its linear layers, convolutions and embeddings: codes, scales, zero points and row
            order where they are packed, the float numbers elsewhere. Biases and norms are not weights.
        weights: how many numbers those weights are.
        effective_bits: 8 weight_nbytes / weights, or None for a model without weights.
        parameters: numbers that were trained, or may be: weights, biases and norms.
    """

    file_nbytes: int
    memory_nbytes: int
    kernel_nbytes: int
    weight_nbytes: int
    weights: int
    effective_bits: float | None
    parameters: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def model_size(model: nn.Module | str | Path, *, file_nbytes: int | None = None) -> Size:
    """Count a model's bytes.

    A model with quantized layers that are not packed yet counts as it would be saved: packed, in a copy.

    Args:
        model: float, quantized or packed, or the path of a model file.
        file_nbytes: bytes of its file, if it is there already; otherwise it is written out, in memory.

    Raises:
        ModelFileError: the file cannot be read.
    """
    if not isinstance(model, nn.Module):
        return model_size(load(model), file_nbytes=Path(model).stat().st_size)
    if any(isinstance(layer, QuantLayer) and layer.weight_quantizer is not None for layer in model.modules()):
        model = pack(model, "reference")
    counted = list(_weights(model))
    weights, weight_nbytes = sum(n for n, _ in counted), sum(nbytes for _, nbytes in counted)
    kernels = [layer.choice.kernel.nbytes for layer in _packed(model) if layer.choice is not None]
    return Size(
        file_nbytes=len(to_bytes(model)) if file_nbytes is None else file_nbytes,
        memory_nbytes=_memory(model),
        kernel_nbytes=sum(kernels),
        weight_nbytes=weight_nbytes,
        weights=weights,
        effective_bits=8 * weight_nbytes / weights if weights else None,
        parameters=_parameters(model),
    )


def _packed(model: nn.Module) -> list[PackedLayer]:
    return [layer for layer in model.modules() if isinstance(layer, PackedLayer)]


def _weights(model: nn.Module) -> Iterator[tuple[int, int]]:
    """Yield number and bytes of each layer's weight; one that several layers share comes once."""
    seen: set[int] = set()
    for layer in model.modules():
        if isinstance(layer, PackedLayer):
            packed = layer.weight
            yield packed.shape.numel(), packed.nbytes
        elif isinstance(layer, (*_FLOAT_LAYERS, QuantLayer)):
            weight = layer.weight
            if id(weight) not in seen:
                seen.add(id(weight))
                yield weight.numel(), _nbytes(weight)


def _memory(model: nn.Module) -> int:
    tensors = [*model.parameters(), *model.buffers()]
    return sum({tensor.data_ptr(): _nbytes(tensor) for tensor in tensors if tensor.numel()}.values())


def _parameters(model: nn.Module) -> int:
    packed = sum(
        layer.weight.shape.numel() + (0 if layer.bias is None else layer.bias.numel()) for layer in _packed(model)
    )
    return packed + sum(parameter.numel() for parameter in model.parameters())


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
