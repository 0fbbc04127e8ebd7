"""Small data sets in the published forms, written by hand."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Pickled = Callable[[Mapping[str, Any]], bytes]
Tarred = Callable[[Path, Mapping[str, bytes]], Path]


class Python2Pickler:
    """Writes a dictionary opcode by opcode, as Python 2's ``cPickle.dump(..., protocol=2)`` does."""

    def __init__(self) -> None:
        self.memo = 0

    def dump(self, entries: Mapping[str, Any]) -> bytes:
        items = b"".join(self.text(key) + self.value(value) for key, value in entries.items())
        return b"\x80\x02}" + self.put() + b"(" + items + b"u."

    def put(self) -> bytes:
        self.memo += 1
        return b"q" + bytes([self.memo]) if self.memo < 256 else b"r" + struct.pack("<I", self.memo)

    def text(self, value: str) -> bytes:
        return b"U" + bytes([len(value)]) + value.encode("latin-1") + self.put()

    def value(self, value: Any) -> bytes:
        if isinstance(value, np.ndarray):
            return self.array(value)
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return b"]" + self.put() + b"(" + b"".join(map(self.value, value)) + b"e"
        return self.integer(value)

    def integer(self, value: int) -> bytes:
        if 0 <= value < 256:
            return b"K" + bytes([value])
        return b"M" + struct.pack("<H", value) if 0 <= value < 65536 else b"J" + struct.pack("<i", value)

    def array(self, array: NDArray[Any]) -> bytes:
        column_major = array.flags.f_contiguous and not array.flags.c_contiguous
        raw = array.tobytes(order="F" if column_major else "C")
        call = b"cnumpy.core.multiarray\n_reconstruct\n" + self.put() + b"cnumpy\nndarray\n" + self.put()
        call += b"K\x00\x85" + self.put() + self.text("b") + b"\x87" + self.put() + b"R" + self.put()
        shape = b"".join(map(self.integer, array.shape)) + b"\x86" + self.put()
        dtype = b"cnumpy\ndtype\n" + self.put() + self.text(array.dtype.str[1:]) + b"K\x00K\x01\x87" + self.put()
        dtype += b"R" + self.put() + b"(K\x03" + self.text("|") + b"NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00t"
        order = b"\x88" if column_major else b"\x89"
        data = b"T" + struct.pack("<I", len(raw)) + raw
        return call + b"(K\x01" + shape + dtype + self.put() + b"b" + order + data + b"t" + self.put() + b"b"


@pytest.fixture
def pickled() -> Pickled:
    return lambda entries: Python2Pickler().dump(entries)


@pytest.fixture
def tarred() -> Tarred:
    """Write a tar.gz file of the given contents by name."""

    def write(path: Path, contents: Mapping[str, bytes]) -> Path:
        with tarfile.open(path, "w:gz") as archive:
            for name, content in contents.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def pixels() -> Callable[[int], Pixels]:
    """Make (n, 3072) random bytes."""
    generator = np.random.default_rng(0)
    return lambda count: generator.integers(0, 256, (count, 3072), dtype=np.uint8)
