"""Read model files: strictly, and all or nothing."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as from_safetensors
from torch import Tensor, nn

from qcore.errors import ModelFileError, QcoreError
from qcore.export.build import build_network
from qcore.export.format import ModelFile, checksum, how_to_load, inspect
from qcore.export.write import raw_bytes
from qcore.nn.convert import replace_modules
from qcore.nn.layers import QuantConv2d, QuantLayer, QuantLinear, make_layer
from qcore.nn.order import follower
from qcore.nn.packed import PackedConv2d, PackedLayer, PackedLinear, walk_of
from qcore.nn.packing import prepare_layers
from qcore.plugins import default
from qcore.quantizers.base import Quantizer
from qcore.quantizers.make import make_quantizer
from qcore.registry import Registry
from qcore.tensor import QTensor
from qcore.tensor.arithmetic import Conv2dShape

__all__ = ["load"]

_LINEAR = (nn.Linear, QuantLinear, PackedLinear)
_CONV2D = (nn.Conv2d, QuantConv2d, PackedConv2d)


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
    network = copy.deepcopy(model) if model is not None else build_network(file, registry)
    layers, problems = _make_layers(file, network, tensors, registry)
    if not problems:
        network = _adopt_dtypes(replace_modules(network, layers), tensors)
        problems = _compare(network, tensors)
    if file.written_tensors != len(tensors):
        problems.insert(0, f"{len(tensors)} tensors in the file, which was written with {file.written_tensors}")
    if problems:
        raise ModelFileError(f"{file.path} does not fit its network:\n  " + "\n  ".join(problems))
    network.load_state_dict(tensors, strict=True)
    return prepare_layers(network.eval(), backend, registry)


def _check_plugins(file: ModelFile, registry: Registry) -> None:
    missing = file.missing_plugins({spec.plugin for spec in registry})
    if missing:
        raise ModelFileError(
            f"{file.path} needs the plugin {', '.join(missing)}, which is not loaded",
            f"{how_to_load(missing)} (qcore inspect shows the file without it)",
        )


def _read_tensors(file: ModelFile) -> dict[str, Tensor]:
    try:
        tensors = from_safetensors(file.path.read_bytes())
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError) as error:
        raise ModelFileError(f"{file.path} cannot be read: {error}") from error
    if file.written_tensors == len(tensors):  # else the network tells which are missing or surplus
        damaged = [name for name, wanted in file.checksums.items() if checksum(raw_bytes(tensors[name])) != wanted]
        if damaged:
            raise ModelFileError(f"{file.path} is damaged, these do not match their checksums: {', '.join(damaged)}")
    return tensors


def _make_layers(
    file: ModelFile, network: nn.Module, tensors: Mapping[str, Tensor], registry: Registry
) -> tuple[dict[str, nn.Module], list[str]]:
    """Return the quantized layers of ``file`` by path, and what is wrong with them."""
    made: dict[int, nn.Module] = {}  # a layer that stands in several places stays one layer
    layers: dict[str, nn.Module] = {}
    problems = [
        f"{path or '(the model itself)'}: quantized in the network, but not in the file"
        for path, layer in network.named_modules(remove_duplicate=False)
        if isinstance(layer, QuantLayer | PackedLayer) and path not in file.layers
    ]
    for path, description in file.layers.items():
        try:
            twin = network.get_submodule(path)
            layers[path] = made.setdefault(id(twin), _make_layer(path, twin, description, tensors, registry))
            if description.get("folded") is not None:
                layers[_check_norm(path, network, description)] = nn.Identity()
        except AttributeError:
            problems.append(f"{path}: the network has no such layer")
        except KeyError as error:
            problems.append(f"{error.args[0]}: missing from the file")
        except (QcoreError, RuntimeError) as error:
            problems.append(f"{path or '(the model itself)'}: {error}")
    return layers, problems


def _make_layer(
    path: str, twin: nn.Module, description: Mapping[str, Any], tensors: Mapping[str, Tensor], registry: Registry
) -> nn.Module:
    prefix = f"{path}." if path else ""
    _check_twin(twin, description)
    quantizer = _input_quantizer(prefix, description["input"], tensors, registry)
    if description["packed"] is None:
        return _with_input(twin, quantizer)
    weight = QTensor.from_parts(_below(f"{prefix}weight_", tensors), description["packed"])
    bias = tensors[f"{prefix}bias"] if description["bias"] else None
    _check_bias(bias, cast(Tensor | None, twin.bias), weight.shape)
    common = (weight, bias, quantizer, description["weight"] or {})
    layer = PackedLinear(*common) if description["kind"] == "linear" else PackedConv2d(*common, *_walk(description))
    layer.folded = description.get("folded")
    layer.sorted_columns = "columns" in description.get("sorted", ())
    if (len(weight.blocks) > 1 and weight.row_order is None) != ("rows" in description.get("sorted", ())):
        raise ModelFileError("rows of several widths have a row order, or are sorted and have none")
    return layer


def _walk(description: Mapping[str, Any]) -> tuple[Conv2dShape, str, tuple[int, ...]]:
    walk = description["conv"]
    shape = Conv2dShape(tuple(walk["stride"]), tuple(walk["padding"]), tuple(walk["dilation"]), walk["groups"])
    return shape, walk["padding_mode"], tuple(walk["reversed_padding"])


def _check_twin(twin: nn.Module, description: Mapping[str, Any]) -> None:
    """Raise ModelFileError unless ``twin`` is the layer that ``description`` means: same kind, shape, bias and walk."""
    kinds = _LINEAR if description["kind"] == "linear" else _CONV2D
    if not isinstance(twin, kinds):
        raise ModelFileError(f"a {description['kind']} layer in the file, {type(twin).__name__} in the network")
    stored = description["packed"]
    if stored is not None and list(twin.weight.shape) != stored["shape"]:
        raise ModelFileError(f"weight {stored['shape']} in the file, {list(twin.weight.shape)} in the network")
    own = twin.bias is not None or description.get("folded") is not None  # a batch norm brings a bias
    if own != description["bias"]:
        raise ModelFileError(f"bias: {description['bias']} in the file, {twin.bias is not None} in the network")
    if isinstance(twin, _CONV2D) and stored is not None and walk_of(twin) != description["conv"]:
        raise ModelFileError(f"it walks as {description['conv']} in the file, as {walk_of(twin)} in the network")


def _check_bias(stored: Tensor | None, twin: Tensor | None, weight: torch.Size) -> None:
    wanted = weight[:1] if twin is None else twin.shape
    if stored is not None and (stored.shape != wanted or not stored.is_floating_point()):
        raise ModelFileError(f"bias {list(stored.shape)} {stored.dtype} in the file, {list(wanted)} in the network")


def _check_norm(path: str, network: nn.Module, description: Mapping[str, Any]) -> str:
    """Return the path in ``network`` of the batch norm that is folded into the layer at ``path``.

    Raises:
        ModelFileError: no batch norm of that name directly follows that layer, nor the place of one that was folded.
    """
    norm = follower(network, path)
    name, kinds = description["folded"], (nn.BatchNorm1d, nn.BatchNorm2d, nn.Identity)
    if norm is None or norm.rpartition(".")[2] != name or not isinstance(network.get_submodule(norm), kinds):
        raise ModelFileError(f"the batch norm {name} folded into it in the file, which is not behind it in the network")
    return norm


def _input_quantizer(
    prefix: str, description: Mapping[str, Any] | None, tensors: Mapping[str, Tensor], registry: Registry
) -> Quantizer | None:
    if description is None:
        return None
    quantizer = make_quantizer(description, registry)
    quantizer.tensor_name = f"{prefix}input"
    quantizer.load_state_dict(_below(f"{prefix}input_quantizer.", tensors))
    return quantizer


def _with_input(twin: nn.Module, quantizer: Quantizer | None) -> nn.Module:
    """Return ``twin`` with its weight as it is and ``quantizer`` at its input."""
    if isinstance(twin, nn.Linear | nn.Conv2d):
        return make_layer(twin, None, quantizer)
    if not isinstance(twin, QuantLayer):
        raise ModelFileError("its weight is float in the file, packed in the network")
    twin.weight_quantizer, twin.input_quantizer = None, quantizer
    return twin


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _adopt_dtypes(network: nn.Module, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Give the float tensors of ``network`` the dtypes of the file, so that a bfloat16 model comes back as one."""
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        stored = tensors.get(name)
        if stored is not None and stored.is_floating_point() and tensor.is_floating_point():
            tensor.data = tensor.data.to(stored.dtype)
    return network


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
