"""Write model files."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

import qcore
from qcore.errors import ModelFileError
from qcore.export.atomic import atomic_write
from qcore.export.format import KEY, checksum
from qcore.export.schema import format_of
from qcore.nn.convert import replace_modules
from qcore.nn.folding import fold_norms
from qcore.nn.layers import QuantConv2d, QuantLayer
from qcore.nn.models import architecture_of
from qcore.nn.packed import PackedLayer
from qcore.nn.packing import packed_layers
from qcore.nn.sorting import sort_neurons
from qcore.plugins import default
from qcore.registry import Registry

__all__ = ["raw_bytes", "save", "to_bytes"]


def save(
    model: nn.Module,
    path: str | Path,
    *,
    fold: bool = False,
    metadata: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
) -> Path:
    """Write ``model`` to ``path``, whole or not at all.

    Quantized layers are packed first, in a copy. The file can be loaded again without any code of the caller's if the
    model came from the registry (``qcore.get("model", ...)``); any other model is loaded into a float twin.

    Args:
        model: a float, quantized or packed model.
        path: the file, by custom ``model.safetensors``.
        fold: fold batch norms into the packed layers before them, see :func:`qcore.pack`.
        metadata: JSON data to keep with it, such as classes and feature names.
        registry: where versions of plugins are looked up; None for the default framework's.

    Returns:
        The path.

    Raises:
        QcoreError: the file cannot be written; what stood there still stands.
        ModelFileError: the metadata is no JSON data, or the model holds what no file can.
        QuantizationError: a weight holds NaN or infinity.
        CalibrationError: an input's static range was never set.
    """
    return atomic_write(Path(path), to_bytes(model, fold=fold, metadata=metadata, registry=registry))


def to_bytes(
    model: nn.Module,
    *,
    fold: bool = False,
    metadata: Mapping[str, Any] | None = None,
    registry: Registry | None = None,
) -> bytes:
    """Return the file that :func:`save` would write."""
    registry = registry or default().registry
    if fold or any(isinstance(layer, QuantLayer) and layer.weight_quantizer is not None for layer in model.modules()):
        model = copy.deepcopy(model).eval()
        packed = packed_layers(model)
        model = replace_modules(model, sort_neurons(model, fold_norms(model, packed) if fold else packed))
    tensors = {name: _stored(name, value) for name, value in model.state_dict().items()}
    layers = {path: _description(path, layer) for path, layer in _layers(model)}
    header = {
        "format": format_of(layers.values()),
        "qcore": qcore.__version__,
        "model": _architecture(model),
        "layers": layers,
        "plugins": _plugins(model, registry),
        "checksums": "".join(checksum(raw_bytes(tensors[name])) for name in sorted(tensors)),
        "extra": dict(metadata or {}),
    }
    try:
        text = json.dumps(header, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"the metadata of a model file must be JSON data: {error}") from None
    data: bytes = to_safetensors({name: tensor.clone() for name, tensor in tensors.items()}, metadata={KEY: text})
    return data


def _stored(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.is_meta or value.layout != torch.strided:
        raise ModelFileError(f"{name} cannot be stored: a model file holds dense tensors, not {type(value).__name__}")
    return value.detach().cpu().contiguous()


def _layers(model: nn.Module) -> list[tuple[str, PackedLayer | QuantLayer]]:
    layers = model.named_modules(remove_duplicate=False)
    return [(path, layer) for path, layer in layers if isinstance(layer, PackedLayer | QuantLayer)]


def _description(path: str, layer: PackedLayer | QuantLayer) -> dict[str, Any]:
    """Return what the header says of ``layer``; of one with only its input quantized: that, and how."""
    quantizer = layer.input_quantizer
    if quantizer is not None and not quantizer.spec_id:
        raise ModelFileError(
            f"{quantizer.tensor_name}: {type(quantizer).__name__} is not registered, so no file can name it",
            "offer it in a plugin, or in a module given to --plugin",
        )
    if isinstance(layer, PackedLayer):
        return layer.describe()
    return {
        "kind": "conv2d" if isinstance(layer, QuantConv2d) else "linear",
        "weight": None,
        "packed": None,
        "bias": layer.bias is not None,
        "input": None if quantizer is None else quantizer.describe(),
    }


def _architecture(model: nn.Module) -> dict[str, Any] | None:
    architecture = architecture_of(model)
    return None if architecture is None else {"id": architecture.model, "config": architecture.config}


def _plugins(model: nn.Module, registry: Registry) -> dict[str, dict[str, str | None]]:
    """Return the plugins that anything in the model came from, with distribution and version."""
    ids = {str(getattr(module, "spec_id", "")) for module in model.modules()}
    packed = [layer for layer in model.modules() if isinstance(layer, PackedLayer)]
    ids |= {str(layer.weight_spec.get("quantizer", "")) for layer in packed}
    architecture = architecture_of(model)
    if architecture is not None:
        ids.add(architecture.model)
    names = {spec_id.partition("/")[0] for spec_id in ids if "/" in spec_id}
    origin = {spec.plugin: {"distribution": spec.distribution, "version": spec.version} for spec in registry}
    return {name: origin.get(name, {"distribution": None, "version": None}) for name in sorted(names - {"core"})}


def raw_bytes(tensor: Tensor) -> bytes:
    """Return the bytes of ``tensor`` as a file holds them."""
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
