"""Read model files: strictly, and all or nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from torch import Tensor, nn

from qcore.errors import ModelFileError, QcoreError
from qcore.export.format import ModelFile, checksum, inspect
from qcore.export.write import raw_bytes
from qcore.nn.convert import replace_module
from qcore.nn.models import build_model
from qcore.nn.packed import PackedConv2d, PackedLayer, PackedLinear
from qcore.nn.packing import prepare_layers
from qcore.plugins import default
from qcore.quantizers.base import Quantizer
from qcore.quantizers.make import make_quantizer
from qcore.registry import Registry
from qcore.tensor import QTensor
from qcore.tensor.arithmetic import Conv2dShape

__all__ = ["load"]


def load(
    path: str | Path, *, backend: str = "auto", model: nn.Module | None = None, registry: Registry | None = None
) -> nn.Module:
    """Load a model file, in eval mode and ready to run.

    Args:
        path: the file.
        backend: what runs the packed layers, see :func:`qcore.pack`.
        model: the float twin to load into, for a file whose network is not a registered one; it is left alone.
        registry: where networks and quantizers are looked up; None for the default framework's.

    Raises:
        ModelFileError: the file is truncated, foreign or damaged, lacks or exceeds what the network holds, or needs a
            plugin that is not loaded. Every bad entry is listed, and nothing is half-loaded.
        BackendError: the named backend cannot run a layer.
    """
    file = inspect(path)
    registry = registry or default().registry
    _check_plugins(file, registry)
    tensors = _read_tensors(file)
    network = copy.deepcopy(model) if model is not None else _build(file, registry)
    problems: list[str] = []
    for layer_path, description in file.layers.items():
        try:
            network = replace_module(network, layer_path, _packed_layer(layer_path, description, tensors, registry))
        except (QcoreError, AttributeError, KeyError, TypeError) as error:
            problems.append(f"{layer_path}: {error}")
    problems += _compare(network, tensors) if not problems else []
    if problems:
        raise ModelFileError(f"{file.path} does not fit its network:\n  " + "\n  ".join(problems))
    network.load_state_dict(tensors, strict=True)
    return prepare_layers(network.eval(), backend, registry)


def _check_plugins(file: ModelFile, registry: Registry) -> None:
    missing = file.missing_plugins({spec.plugin for spec in registry})
    if missing:
        raise ModelFileError(
            f"{file.path} needs the plugin {', '.join(missing)}, which is not loaded",
            f"pip install {' '.join(missing.values())} (qcore inspect shows the file without it)",
        )


def _read_tensors(file: ModelFile) -> dict[str, Tensor]:
    try:
        tensors = from_safetensors(file.path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{file.path} cannot be read: {error}") from error
    names = file.checksums.keys()
    problems = [f"{name}: in the file, but without a checksum" for name in tensors.keys() - names]
    problems += [f"{name}: missing from the file" for name in names - tensors.keys()]
    problems += [
        f"{name}: damaged, its bytes do not match their checksum"
        for name, tensor in tensors.items()
        if name in names and checksum(raw_bytes(tensor)) != file.checksums[name]
    ]
    if problems:
        raise ModelFileError(f"{file.path} has been changed or damaged:\n  " + "\n  ".join(sorted(problems)))
    return tensors


def _build(file: ModelFile, registry: Registry) -> nn.Module:
    if file.architecture is None:
        raise ModelFileError(
            f"{file.path} holds a network that is not a registered one",
            "load it into its float twin: qcore.load(path, model=twin)",
        )
    return build_model(file.architecture["id"], file.architecture["config"], registry=registry)


def _packed_layer(
    path: str, description: Mapping[str, Any], tensors: Mapping[str, Tensor], registry: Registry
) -> PackedLayer:
    prefix = f"{path}." if path else ""
    parts = {
        name.removeprefix(f"{prefix}weight_"): tensor
        for name, tensor in tensors.items()
        if name.startswith(f"{prefix}weight_")
    }
    weight = QTensor.from_parts(parts, description["packed"])
    bias = tensors[f"{prefix}bias"] if description["bias"] else None
    quantizer: Quantizer | None = None
    if description["input"] is not None:
        quantizer = make_quantizer(description["input"], registry)
        quantizer.tensor_name = f"{prefix}input"
        state = {
            name.removeprefix(f"{prefix}input_quantizer."): tensor
            for name, tensor in tensors.items()
            if name.startswith(f"{prefix}input_quantizer.")
        }
        quantizer.load_state_dict(state)
    if description["kind"] == "linear":
        return PackedLinear(weight, bias, quantizer, description["weight"])
    walk = description["conv"]
    shape = Conv2dShape(tuple(walk["stride"]), tuple(walk["padding"]), tuple(walk["dilation"]), int(walk["groups"]))
    padding = (walk["padding_mode"], tuple(walk["reversed_padding"]))
    return PackedConv2d(weight, bias, quantizer, description["weight"], shape, *padding)


def _compare(network: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    wanted = network.state_dict()
    problems = [f"{name}: missing from the file" for name in wanted.keys() - tensors.keys()]
    problems += [f"{name}: the network has no such tensor" for name in tensors.keys() - wanted.keys()]
    problems += [
        f"{name}: {tuple(tensors[name].shape)} {tensors[name].dtype} in the file, "
        f"{tuple(tensor.shape)} {tensor.dtype} in the network"
        for name, tensor in wanted.items()
        if name in tensors and (tensor.shape, tensor.dtype) != (tensors[name].shape, tensors[name].dtype)
    ]
    return sorted(problems)
