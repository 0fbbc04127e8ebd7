"""A packed JPEG file that fits in a few lines, for tests of image tasks."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcore.tasks.images import import_pillow

__all__ = ["packed_images"]

_SCAN = b"\xff\xda"
"""Where the header of a JPEG file ends."""

_QUALITIES = (75, 76)


def packed_images(
    size: int = 32, train: int = 20, test: int = 10, classes: int = 10
) -> tuple[dict[str, NDArray[Any]], NDArray[np.uint8]]:
    """Return the arrays of a packed JPEG file (see :mod:`qcore.tasks.packed_jpeg`), and the pixels that it shows.

    The images are noise, of two qualities that share two headers; those of both parts are labelled 0, 1, ... in turn.

    Args:
        size: height and width.
        train: images to learn from; with none, the file has no such part.
        test: images to test on.
        classes: labels there are.

    Returns:
        Arrays by name, and uint8 (train + test, 3, size, size).
    """
    arrays: dict[str, NDArray[Any]] = {}
    heads: list[bytes] = []
    decoded: list[NDArray[np.uint8]] = []
    for split, count in (("train", train), ("test", test)):
        if not count:
            continue
        files, pixels = zip(*(_jpeg(seed, size) for seed in range(count)), strict=True)
        decoded += pixels
        cut = [(raw[: raw.index(_SCAN)], raw[raw.index(_SCAN) :]) for raw in files]
        heads = list(dict.fromkeys([*heads, *(head for head, _ in cut)]))
        arrays[f"{split}_scan"] = np.frombuffer(b"".join(scan for _, scan in cut), dtype=np.uint8)
        arrays[f"{split}_scan_len"] = np.array([len(scan) for _, scan in cut], dtype=np.int32)
        arrays[f"{split}_header"] = np.array([heads.index(head) for head, _ in cut], dtype=np.uint8)
        arrays[f"y_{split}"] = (np.arange(count) % classes).astype(np.int16)
    arrays["headers"] = np.frombuffer(b"".join(heads), dtype=np.uint8)
    arrays["header_len"] = np.array([len(head) for head in heads], dtype=np.int32)
    return arrays, np.stack(decoded).transpose(0, 3, 1, 2).copy()


def _jpeg(seed: int, size: int) -> tuple[bytes, NDArray[np.uint8]]:
    """Return a file of noise, and (size, size, 3) uint8 as it shows it."""
    pillow, file = import_pillow(), io.BytesIO()
    noise = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    pillow.fromarray(noise).save(file, "JPEG", quality=_QUALITIES[seed % 2])
    return file.getvalue(), np.asarray(pillow.open(file).convert("RGB"), dtype=np.uint8)
