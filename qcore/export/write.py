"""Write model files."""

from __future__ import annotations

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
from qcore.export.format import FORMAT, KEY, checksum
from qcore.nn.layers import QuantLayer
from qcore.nn.models import architecture_of
from qcore.nn.packed import PackedLayer
from qcore.nn.packing import pack
from qcore.plugins import default
from qcore.registry import Registry

__all__ = ["raw_bytes", "save", "to_bytes"]


def save(
    model: nn.Module, path: str | Path, *, metadata: Mapping[str, Any] | None = None, registry: Registry | None = None
) -> Path:
    """Write ``model`` to ``path``, whole or not at all.

    Quantized layers are packed first, in a copy. The file can be loaded again without any code of the caller's if the
    model came from the registry (``qcore.get("model", ...)``); any other model is loaded into a float twin.

    Args:
        model: a float, quantized or packed model.
        path: the file, by custom ``model.safetensors``.
        metadata: JSON data to keep with it, such as classes and feature names.
        registry: where versions of plugins are looked up; None for the default framework's.

    Returns:
        The path.

    Raises:
        ModelFileError: the metadata is no JSON data, or the file cannot be written.
        QuantizationError: a weight holds NaN or infinity.
    """
    return atomic_write(Path(path), to_bytes(model, metadata=metadata, registry=registry))


def to_bytes(model: nn.Module, *, metadata: Mapping[str, Any] | None = None, registry: Registry | None = None) -> bytes:
    """Return the file that :func:`save` would write."""
    registry = registry or default().registry
    if any(isinstance(layer, QuantLayer) and layer.weight_quantizer is not None for layer in model.modules()):
        model = pack(model, "reference", registry=registry)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    header = {
        "format": FORMAT,
        "qcore": qcore.__version__,
        "model": _architecture(model),
        "layers": {path: layer.describe() for path, layer in _layers(model)},
        "plugins": _plugins(model, registry),
        "checksums": {name: checksum(raw_bytes(tensor)) for name, tensor in tensors.items()},
        "extra": dict(metadata or {}),
    }
    try:
        text = json.dumps(header, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ModelFileError(f"the metadata of a model file must be JSON data: {error}") from None
    data: bytes = to_safetensors({name: tensor.clone() for name, tensor in tensors.items()}, metadata={KEY: text})
    return data


def _layers(model: nn.Module) -> list[tuple[str, PackedLayer]]:
    return [(path, layer) for path, layer in model.named_modules() if isinstance(layer, PackedLayer)]


def _architecture(model: nn.Module) -> dict[str, Any] | None:
    architecture = architecture_of(model)
    return None if architecture is None else {"id": architecture.model, "config": architecture.config}


def _plugins(model: nn.Module, registry: Registry) -> dict[str, dict[str, str | None]]:
    """Return the plugins that anything in the model came from, with distribution and version."""
    ids = {str(getattr(module, "spec_id", "")) for module in model.modules()}
    ids |= {str(layer.weight_spec.get("quantizer", "")) for _, layer in _layers(model)}
    architecture = architecture_of(model)
    if architecture is not None:
        ids.add(architecture.model)
    names = {spec_id.partition("/")[0] for spec_id in ids if "/" in spec_id}
    origin = {spec.plugin: {"distribution": spec.distribution, "version": spec.version} for spec in registry}
    return {name: origin.get(name, {"distribution": None, "version": None}) for name in sorted(names - {"core"})}


def raw_bytes(tensor: Tensor) -> bytes:
    """Return the bytes of ``tensor`` as a file holds them."""
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
