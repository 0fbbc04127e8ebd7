"""The model file: safetensors, with one JSON text under the metadata key ``qcore``. Torch-free.

The JSON object holds

========== ============================================================================================
format     ``"qcore.model/1"``; ``"qcore.model/2"`` if a batch norm is folded into a layer; ``"qcore.model/3"`` if
           rows or columns of a layer are sorted
qcore      version that wrote it
model      id and config of the registered network, or null
layers     module path to what a packed layer is made of (quantizers, packed tensor, walk of a convolution, name of the
           batch norm beside it that is folded into it, which of rows and columns are sorted)
plugins    plugin name to its distribution and version: what reading the file needs
checksums  the 8-byte BLAKE2b of each tensor's bytes in hexadecimal, joined in the order of the sorted names
extra      what the writer added: task, classes, feature names, arm, ...
========== ============================================================================================
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcore.errors import ModelFileError
from qcore.export.schema import FOLDED_FORMAT, FORMAT, FORMATS, SORTED_FORMAT, header_problems

__all__ = [
    "FOLDED_FORMAT",
    "FORMAT",
    "KEY",
    "SORTED_FORMAT",
    "ModelFile",
    "TensorInfo",
    "checksum",
    "how_to_load",
    "inspect",
]

KEY = "qcore"
_DIGITS = 16


@dataclass(frozen=True)
class TensorInfo:
    """A tensor of the file: safetensors dtype name, shape, bytes."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


@dataclass(frozen=True)
class ModelFile:
    """What a model file says of itself; reading it runs no plugin.

    Attributes:
        path: the file.
        nbytes: its size.
        header: the JSON object described in :mod:`qcore.export.format`.
        tensors: every tensor by name.
    """

    path: Path
    nbytes: int
    header: dict[str, Any]
    tensors: dict[str, TensorInfo]

    @property
    def architecture(self) -> dict[str, Any] | None:
        """Id and config of the registered network, or None."""
        return self.header["model"]  # type: ignore[no-any-return]

    @property
    def layers(self) -> dict[str, dict[str, Any]]:
        """The packed layers by module path."""
        return self.header["layers"]  # type: ignore[no-any-return]

    @property
    def folded(self) -> dict[str, str]:
        """The batch norms that are folded, by module path, with the path of the layer that each is part of."""
        layers = {path: layer["folded"] for path, layer in self.layers.items() if layer.get("folded") is not None}
        return {f"{path.rpartition('.')[0]}.{name}".removeprefix("."): path for path, name in layers.items()}

    @property
    def plugins(self) -> dict[str, dict[str, str | None]]:
        """Plugins that reading the file needs, with distribution and version."""
        return self.header["plugins"]  # type: ignore[no-any-return]

    @property
    def extra(self) -> dict[str, Any]:
        """What the writer added."""
        return self.header["extra"]  # type: ignore[no-any-return]

    @property
    def checksums(self) -> dict[str, str]:
        """Checksum of each tensor's bytes by name; fewer or more than the tensors if the file was tampered with."""
        joined: str = self.header["checksums"]
        parts = [joined[i : i + _DIGITS] for i in range(0, len(joined), _DIGITS)]
        return dict(zip(sorted(self.tensors), parts, strict=False))

    @property
    def written_tensors(self) -> int:
        """The number of tensors that the file was written with."""
        return len(self.header["checksums"]) // _DIGITS

    def missing_plugins(self, loaded: Mapping[str, Any] | set[str]) -> dict[str, str | None]:
        """Return the needed plugins that are not ``loaded``, with their distributions; None for a local file."""
        return {name: origin.get("distribution") for name, origin in self.plugins.items() if name not in loaded}


def how_to_load(missing: Mapping[str, str | None]) -> str:
    """Return what brings plugins, by name with their distributions, None for a local file."""
    distributions = [distribution for distribution in missing.values() if distribution]
    parts = [f"pip install {' '.join(distributions)}"] if distributions else []
    parts += [
        f"{name} was a local file: qcore.plugins.default().add(PATH, {name!r}) adds it in Python, or install it; "
        "qcore eval RUN loads it by itself"
        for name, distribution in missing.items()
        if not distribution
    ]
    return "; ".join(parts)


def checksum(data: bytes) -> str:
    """Return the 8-byte BLAKE2b of ``data`` in hexadecimal: it finds damage, it does not prove who wrote the file."""
    return hashlib.blake2b(data, digest_size=_DIGITS // 2).hexdigest()


def inspect(path: str | Path) -> ModelFile:
    """Read what a model file says of itself, without its tensors and without any plugin.

    Raises:
        ModelFileError: there is no such file, or it is truncated, foreign, or of a later format.
    """
    path = Path(path)
    if path.is_dir():
        raise ModelFileError(f"{path} is a folder, not a model file", "name the model.safetensors in it")
    if not path.is_file():
        raise ModelFileError(f"there is no model file {path}")
    try:
        tensors, metadata = _read_header(path)
    except OSError as error:
        raise ModelFileError(f"cannot read {path}: {error.strerror or error}") from error
    try:
        header = json.loads(metadata[KEY])
        written = header["format"]
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ModelFileError(
            f"{path} is a safetensors file, but not one that qcore wrote", "qcore.save writes files that it can read"
        ) from None
    if written not in FORMATS:
        known = ", ".join(FORMATS)
        raise ModelFileError(f"{path} has the format {written!r}; this qcore reads {known}", "upgrade qcore-ml")
    problems = header_problems(header)
    if problems:
        raise ModelFileError(f"{path}: its header is malformed:\n  " + "\n  ".join(problems))
    return ModelFile(path, path.stat().st_size, header, tensors)


def _read_header(path: Path) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        if size < 8 or length > size - 8:
            raise ModelFileError(f"{path} is truncated, or no safetensors file: {size} bytes, header of {length}")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError):
            raise ModelFileError(f"{path} is no safetensors file: its header is not JSON") from None
    try:
        metadata = header.pop("__metadata__", {})
        tensors = {name: _tensor_info(entry) for name, entry in header.items()}
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelFileError(f"{path} is no safetensors file: an entry of its header is malformed") from None
    if 8 + length + end != size:
        cut = [name for name, entry in header.items() if 8 + length + entry["data_offsets"][1] > size]
        raise ModelFileError(
            f"{path} has {size} bytes where its header promises {8 + length + end}"
            + (f"; cut off: {', '.join(cut)}" if cut else "")
        )
    return tensors, metadata


def _tensor_info(entry: Any) -> TensorInfo:
    start, end = entry["data_offsets"]
    if not all(isinstance(number, int) for number in (start, end, *entry["shape"])):
        raise TypeError("sizes are whole numbers")
    return TensorInfo(str(entry["dtype"]), tuple(entry["shape"]), end - start)
