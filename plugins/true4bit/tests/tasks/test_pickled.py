from __future__ import annotations

import contextlib
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcore.errors import DataError
from qcore_true4bit.tasks.pickled import read_pickled

BATCH: dict[str, Any] = {
    "batch_label": "training batch 1 of 5",
    "labels": [6, 9, 300, 70000, -1],
    "data": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "filenames": [f"leptodactylus_pentadactylus_s_{number:06}.png" for number in range(300)],
}


def assert_equal(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert np.array_equal(found[key], value) and type(found[key]) is type(value), key


def test_a_batch_is_read_as_unpickling_would(pickled: Any) -> None:
    raw = pickled(BATCH)
    assert_equal(read_pickled(raw, "x"), BATCH)
    assert_equal(pickle.loads(raw, encoding="latin1"), BATCH)


def test_column_major_arrays_come_back_in_place(pickled: Any) -> None:
    data = np.asfortranarray(BATCH["data"])
    raw = pickled({"data": data})
    assert b"\x88T" in raw
    assert np.array_equal(read_pickled(raw, "x")["data"], data)


def test_all_byte_values_survive(pickled: Any) -> None:
    data = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert np.array_equal(read_pickled(pickled({"data": data}), "x")["data"], data)


def test_what_todays_python_writes_as_protocol_1_is_read() -> None:
    plain = {"one": [1, 2], "two": (None, True, 3), "three": {}}
    raw = pickle.dumps({"n": 1, "l": [[]], "t": (1, 2)}, protocol=1).replace(b"X", b"T")
    assert read_pickled(raw, "x") == {"n": 1, "l": [[]], "t": (1, 2)}
    raw = pickle.dumps(plain, protocol=2).replace(b"X", b"T")
    assert read_pickled(raw, "x") == plain


def evil(touched: Path) -> dict[str, bytes]:
    """Return pickles that would run a command, or build an object, if they were unpickled."""
    command = f"touch {touched}".encode()
    text = b"U" + bytes([len(command)]) + command
    return {
        "reduce": b"\x80\x02cos\nsystem\n" + text + b"\x85R.",
        "in a value": b"\x80\x02}U\x04datacos\nsystem\n" + text + b"\x85Rs.",
        "posix": b"\x80\x02cposix\nsystem\n" + text + b"\x85R.",
        "eval": b"\x80\x02c__builtin__\neval\n" + text + b"\x85R.",
        "inst": b"(" + text + b"ios\nsystem\n.",
        "obj": b"(cos\nsystem\n" + text + b"o.",
        "newobj": b"\x80\x02cos\nsystem\n" + text + b"\x85\x81.",
        "stack_global": b"\x80\x02U\x02osU\x06system\x93" + text + b"\x85R.",
        "persistent": b"Pfile\n.",
        "extension": b"\x80\x02\x82\x01.",
        "numpy": b"\x80\x02cnumpy.core.multiarray\nscalar\n" + text + b"\x85R.",
        "load": b"\x80\x02cnumpy\nload\n" + text + b"\x85R.",
    }


@pytest.mark.parametrize("kind", evil(Path("x")))
def test_a_pickle_that_would_run_something_is_refused(kind: str, tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    with pytest.raises(DataError, match="batch 7 is not a batch") as caught:
        read_pickled(evil(touched)[kind], "batch 7")
    assert "nothing in it was executed" in str(caught.value)
    assert not touched.exists()


def test_the_evil_pickles_are_evil(tmp_path: Path) -> None:
    pickle.loads(evil(tmp_path / "touched")["reduce"])
    assert (tmp_path / "touched").exists()


def test_every_cut_is_refused(pickled: Any) -> None:
    raw = pickled({"labels": [1, 2], "data": np.zeros((2, 3), dtype=np.uint8)})
    for length in range(len(raw)):
        with pytest.raises(DataError):
            read_pickled(raw[:length], "x")


@pytest.mark.parametrize(
    "raw",
    [
        b"\x80\x04}.",
        b"]." + b"K\x01.",
        b"}}.",
        b"\x80\x02}K\x01K\x02s.",
        b"\x80\x02(K\x01u.",
        b"\x80\x02}(U\x01au.",
        b"\x80\x02h\x05.",
        b"\x80\x02K\x01\x86.",
        b"\x80\x02}b.",
        b"\x80\x02K\x01K\x02R.",
        b"\x80\x02}U\x01acnumpy\nndarray\n)Rs.",
    ],
)
def test_other_pickles_are_refused(raw: bytes) -> None:
    with pytest.raises(DataError):
        read_pickled(raw, "x")


def test_arrays_of_other_types_and_sizes_are_refused(pickled: Any) -> None:
    with pytest.raises(DataError, match="unsigned bytes"):
        read_pickled(pickled({"data": np.zeros((2, 3), dtype=np.float32)}), "x")
    raw = pickled({"data": np.zeros((2, 3), dtype=np.uint8)})
    with pytest.raises(DataError, match="reshape"):
        read_pickled(raw.replace(b"K\x02K\x03\x86", b"K\x02K\x04\x86"), "x")
    huge = b"I" + b"9" * 30 + b"\n"
    with pytest.raises(DataError):
        read_pickled(raw.replace(b"K\x02K\x03\x86", huge + huge + b"\x86"), "x")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(st.data())
def test_damaged_bytes_give_data_errors_and_nothing_else(pickled: Any, data: st.DataObject) -> None:
    raw = bytearray(pickled({"labels": [1, 2], "data": np.zeros((2, 3), dtype=np.uint8)}))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(DataError):
        read_pickled(bytes(raw), "x")


def test_a_length_beyond_the_file_is_refused() -> None:
    with pytest.raises(DataError):
        read_pickled(b"\x80\x02}U\x04dataT" + struct.pack("<i", 2**31 - 1) + b"abc", "x")


def test_tuples_within_tuples_are_bounded() -> None:
    raw = b"\x80\x02}U\x04data" + b"cnumpy.core.multiarray\n_reconstruct\n" + b")" + b"\x85" * 200_000 + b"Rs."
    with pytest.raises(DataError, match="more tuples"):
        read_pickled(raw, "batch")
