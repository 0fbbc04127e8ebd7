"""Reading packed JPEG files: an npz file whose images share their headers.

For each split of ``train`` and ``test``: ``<split>_scan`` (uint8) holds the images one after another without their
headers, ``<split>_scan_len`` (n,) their lengths, ``<split>_header`` (n,) the number of each image's header, and
``y_<split>`` (n,) the labels. ``headers`` (uint8) holds the headers one after another and ``header_len`` (m,) their
lengths. Header and scan together are the original JPEG file. ``classes`` (k,) names the classes; without it they are
numbered.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcore.errors import DataError
from qcore.tasks.images import read_pixels
from qcore.tasks.npz import read_npz
from qcore.tasks.parts import Part, Rows

__all__ = ["read_packed"]

_SPLITS = ("train", "test")

Arrays = dict[str, NDArray[Any]]


def read_packed(path: Path, size: int, channels: int) -> tuple[dict[str, Part], tuple[str, ...]]:
    """Return the parts ``train`` and ``test``, as far as they are there, and the class names.

    The images are decoded when a part's pixels are asked for, and resized to ``size`` where they are not of that size.

    Args:
        path: of the npz file.
        size: height and width of the images.
        channels: 1 = grey, 3 = red, green, blue.

    Raises:
        DataError: the file is damaged, or not of the layout above.
    """
    arrays = read_npz(path, ("headers", "header_len"))
    headers = _pieces(arrays, "headers", "header_len", path)
    parts = {split: _part(arrays, split, headers, path, size, channels) for split in _SPLITS if f"y_{split}" in arrays}
    if not parts:
        raise DataError(f"{path} holds neither y_train nor y_test")
    return parts, _class_names(arrays, parts)


def _part(arrays: Arrays, split: str, headers: list[bytes], path: Path, size: int, channels: int) -> Part:
    scans = _pieces(arrays, f"{split}_scan", f"{split}_scan_len", path)
    chosen = _integers(arrays, f"{split}_header", path)
    labels = _integers(arrays, f"y_{split}", path)
    if not len(scans) == len(chosen) == len(labels):
        raise DataError(f"{path}: {len(scans)} {split} images, {len(chosen)} headers and {len(labels)} labels")
    if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(headers):
        raise DataError(f"{path}: {split}_header names a header that is not there")

    def pixels(rows: Rows) -> Tensor:
        images = torch.empty((len(rows), channels, size, size), dtype=torch.uint8)
        for place, row in enumerate(rows.tolist()):
            name = f"{split} image {row} of {path}"
            images[place] = read_pixels(headers[chosen[row]] + scans[row], size, channels, name)
        return images

    return Part(labels, pixels)


def _pieces(arrays: Arrays, key: str, lengths_key: str, path: Path) -> list[bytes]:
    lengths = _integers(arrays, lengths_key, path)
    joined = arrays.get(key)
    if joined is None or joined.dtype != np.uint8 or joined.ndim != 1:
        raise DataError(f"{path}: {key} is not a row of bytes")
    if (lengths < 0).any() or lengths.sum() != len(joined):
        raise DataError(f"{path}: {lengths_key} add up to {lengths.sum()}, but {key} has {len(joined)} bytes")
    ends = np.cumsum(lengths)
    content = joined.tobytes()
    return [content[end - length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


def _integers(arrays: Arrays, key: str, path: Path) -> Rows:
    values = arrays.get(key)
    if values is None or values.dtype.kind not in "iu" or values.ndim != 1:
        raise DataError(f"{path}: {key} is not a row of whole numbers")
    return values.astype(np.int64)


def _class_names(arrays: Arrays, parts: dict[str, Part]) -> tuple[str, ...]:
    given = arrays.get("classes")
    if given is not None and given.ndim == 1 and given.dtype.kind == "U":
        return tuple(str(name) for name in given)
    highest = max(int(part.labels.max(initial=0)) for part in parts.values())
    return tuple(str(label) for label in range(highest + 1))
