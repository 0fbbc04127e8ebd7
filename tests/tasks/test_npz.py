from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from qcore.errors import DataError
from qcore.tasks import npz
from qcore.tasks.npz import read_npz


def test_a_header_that_claims_more_than_the_memory_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.npz"
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000000,), }"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(DataError, match="cannot be read"):
        read_npz(path)


def test_a_file_that_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.npz"
    np.savez_compressed(path, x=np.zeros(1000, np.uint8))
    monkeypatch.setattr(npz, "_MOST_BYTES", 100)
    with pytest.raises(DataError, match="unpacks to"):
        read_npz(path)


def test_python_objects_are_refused_without_advice_to_unpickle(tmp_path: Path) -> None:
    path = tmp_path / "objects.npz"
    np.savez(path, x=np.array([{}], dtype=object))
    with pytest.raises(DataError, match="Python objects") as caught:
        read_npz(path)
    assert "allow_pickle" not in str(caught.value)
