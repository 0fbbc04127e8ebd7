"""Loading pretrained weights from a file of the user's, strictly. Nothing is unpickled."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from qcore.errors import DataError, UsageError
from qcore.nn.packed import PackedLayer
from qcore.tasks.npz import read_npz
from qcore.tasks.paths import resolve_data
from qcore_hetero_diffq.models.inverted import InvertedNetwork
from qcore_hetero_diffq.models.naming import MARKS, NAMINGS, Naming, tensor_names

__all__ = ["load_pretrained"]

_NEEDS: Final = "a file of weights, .safetensors or .npz"

_PICKLES: Final = frozenset({".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl"})

_UNTOLD: Final = "num_batches_tracked"
"""What a file may leave out: how many batches a norm has seen."""


def load_pretrained(
    model: nn.Module, path: str | Path, naming: Naming | Literal["auto"] = "auto", *, head: bool = True
) -> None:
    """Load the weights of a file into ``model``, in place: all of them, or none.

    ======================= ==============================================================================
    ``torchvision``         ``mobilenet_v2``
    ``timm``                ``mobilenetv2_100`` and the like, ``efficientnet_lite0``; ``tf_efficientnet_lite0``
                            for a network with ``padding="tensorflow"`` and ``norm_eps=1e-3``
    ``tflite_folded``       npz of the 53 convolutions of a folded MobileNetV2 in graph order: ``Lnn_w`` (int8),
                            ``Lnn_s`` (float32 scale of each row) and ``Lnn_b`` (float32 bias)
    ``qcore``               the names of ``model.state_dict()``
    ======================= ==============================================================================

    The scaling of the pixels is not in such files: it is the network's option ``preprocessing``, which must be that of
    the weights (``symmetric`` or ``torchvision`` for the files above).

    Args:
        model: ``hetero_diffq/mobilenet_v2`` or ``hetero_diffq/efficientnet_lite0``, not packed yet.
        path: the file; relative to here, then to QCORE_DATA.
        naming: what its tensors are called; ``auto`` tells by the stem's weight.
        head: whether the head's weights are taken from the file; False leaves the model's, for other classes.

    Raises:
        UsageError: ``model`` is another network, or has quantized layers that are packed.
        DataError: there is no such file, it is a pickle or damaged, or its tensors are not those of the network; each
            that is missing, unexpected, of another shape, or not finite is named.
    """
    if not isinstance(model, InvertedNetwork):
        raise UsageError(
            f"there are no names of pretrained weights for {type(model).__name__}",
            "load_pretrained takes hetero_diffq/mobilenet_v2 and hetero_diffq/efficientnet_lite0",
        )
    state = model.state_dict()
    if any(isinstance(layer, PackedLayer) for layer in model.modules()):
        raise UsageError("the network is packed, and packed layers keep their weights", "load them before qcore.pack")
    file = resolve_data(str(path), type(model).__name__, _NEEDS)
    given = _read(file)
    known = _naming_of(given, file) if naming == "auto" else naming
    names = tensor_names(model, known)
    if not head:
        for own in ("head.weight", "head.bias"):
            given.pop(names.pop(own), None)
    problems = _problems({own: state[own] for own in names}, given, names)
    if problems:
        hint = f"the names are those of {known}; the options width, norm and out_features must be those of the weights"
        raise DataError(f"{file} does not hold the weights of this network:\n  " + "\n  ".join(problems), hint)
    with torch.no_grad():
        for own, name in names.items():
            if name in given:
                state[own].copy_(given[name].reshape(state[own].shape))


def _problems(wanted: dict[str, Tensor], given: dict[str, Tensor], names: dict[str, str]) -> list[str]:
    """Return what keeps ``given`` from being the tensors ``wanted``, which it calls by ``names``."""
    optional = {name for own, name in names.items() if own.endswith(_UNTOLD)}
    missing = [name for name in names.values() if name not in given and name not in optional]
    unexpected = sorted(set(given) - set(names.values()))
    problems = [f"missing: {', '.join(missing)}"] if missing else []
    problems += [f"unexpected: {', '.join(unexpected)}"] if unexpected else []
    for own, name in names.items():
        if name in given:
            found, shape = given[name], tuple(wanted[own].shape)
            if tuple(found.shape) not in (shape, (*shape, 1, 1)):
                problems.append(f"{name} has the shape {tuple(found.shape)}, and {own} has {shape}")
            elif found.is_floating_point() != wanted[own].is_floating_point():
                problems.append(f"{name} is {found.dtype}, and {own} is {wanted[own].dtype}")
            elif not bool(torch.isfinite(found).all()):
                problems.append(f"{name} holds NaN or infinity")
    return problems


def _naming_of(given: dict[str, Tensor], file: Path) -> Naming:
    for naming in NAMINGS:
        if MARKS[naming] in given:
            return naming
    first = ", ".join(list(given)[:3]) or "none"
    known = ", ".join(f"{naming} ({MARKS[naming]})" for naming in NAMINGS)
    raise DataError(f"{file} names its tensors otherwise than is known: {first}, ...", f"known are {known}")


def _read(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a file by name; those of a folded network as ``Lnn.weight`` and ``Lnn.bias``."""
    suffix = file.suffix.lower()
    if suffix == ".npz":
        return _read_npz(file)
    if suffix in _PICKLES:
        raise DataError(f"{file} is a pickle, which is not read: unpickling runs what a file says", _conversion(file))
    if suffix != ".safetensors":
        raise DataError(f"{file} is no file of weights: they are read from .safetensors and .npz", _conversion(file))
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file} cannot be read as a safetensors file: {error}") from error


def _conversion(file: Path) -> str:
    source, made = file.name, file.with_suffix(".safetensors").name
    return (
        "if you trust who made it, convert it once: "
        'python -c "import torch; from safetensors.torch import save_file; save_file({k: v.contiguous() for k, v in '
        f"torch.load('{source}', weights_only=True).items()}}, '{made}')\""
    )


def _read_npz(file: Path) -> dict[str, Tensor]:
    arrays = read_npz(file)
    if "L00_w" not in arrays:
        odd = [name for name, array in arrays.items() if array.dtype.kind not in "fiu"]
        if odd:
            raise DataError(f"{file} holds other things than numbers: {', '.join(odd)}")
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    found: dict[str, Tensor] = {}
    for place in range(sum(name.endswith("_w") for name in arrays)):
        layer = f"L{place:02d}"
        parts = [arrays.get(f"{layer}_{part}") for part in "wsb"]
        if any(part is None for part in parts):
            raise DataError(f"{file} lacks a part of {layer}: {layer}_w, {layer}_s and {layer}_b go together")
        codes, scale, bias = (np.asarray(part, dtype=np.float32) for part in parts)
        if scale.shape != codes.shape[:1]:
            raise DataError(f"{file}: {layer}_s has the shape {scale.shape}, for {len(codes)} rows of {layer}_w")
        weight = torch.from_numpy(codes * scale.reshape(-1, *[1] * (codes.ndim - 1)))
        found |= {f"{layer}.weight": weight, f"{layer}.bias": torch.from_numpy(bias)}
    return found
