"""Reading idx files: big-endian headers and unsigned bytes, as MNIST's.

Layout: two zero bytes, a byte 8 (unsigned bytes), a byte with the number of dimensions, each size as a big-endian
32-bit number, then the values in row-major order.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from qcore.errors import DataError

__all__ = ["idx_bytes", "read_idx"]

_MAX_NBYTES = 2**27
"""Bound of an unpacked file, against gz files that unpack to far more than they are: the largest known has 47 MB."""


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Return the array of an idx file, which may be packed with gzip (``.gz``), as one that can be written to.

    Raises:
        DataError: the file is damaged, cut off, too large, or of other values than unsigned bytes.
    """
    raw = _content(path)
    dimensions = raw[3] if len(raw) >= 4 and raw[:3] == b"\x00\x00\x08" else 0
    start = 4 + 4 * dimensions
    if not 1 <= dimensions <= 4 or len(raw) < start:
        raise DataError(f"{path} is not an idx file of unsigned bytes")
    shape = struct.unpack(f">{dimensions}I", raw[4:start])
    values = np.frombuffer(raw, dtype=np.uint8, offset=start)
    expected = int(np.prod(shape, dtype=object))
    if len(values) != expected:
        raise DataError(f"{path} holds {len(values)} values, but its header says {expected}", "it is damaged")
    return values.reshape(shape).copy()


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    """Return the idx file of an array, byte for byte as ``read_idx`` reads it."""
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + np.ascontiguousarray(array, dtype=np.uint8).tobytes()


def _content(path: Path) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            raw: bytes = file.read(_MAX_NBYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error or type(error).__name__}", "get it again") from error
    if len(raw) > _MAX_NBYTES:
        raise DataError(f"{path} holds more than {_MAX_NBYTES} bytes, so it is not what it is named after")
    return raw
