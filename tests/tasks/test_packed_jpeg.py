from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qcore.errors import DataError
from qcore.tasks.packed_jpeg import read_packed
from qcore.testing.packed_images import packed_images

pytest.importorskip("PIL.Image")

Arrays = dict[str, NDArray[Any]]


def saved(path: Path, arrays: Arrays) -> Path:
    np.savez(path, **arrays)
    return path


def test_images_come_back_as_their_files_show_them(tmp_path: Path) -> None:
    arrays, pixels = packed_images()
    parts, names = read_packed(saved(tmp_path / "x.npz", arrays), 32, 3)
    assert names == tuple("0123456789") and len(arrays["header_len"]) == 2
    assert parts["train"].pixels(np.arange(20)).equal(torch.from_numpy(pixels[:20].copy()))
    assert parts["test"].pixels(np.array([7, 2])).equal(torch.from_numpy(pixels[[27, 22]].copy()))
    assert parts["test"].labels.tolist() == list(range(10))


def test_class_names_and_sizes_are_taken_as_given(tmp_path: Path) -> None:
    arrays, _ = packed_images(16)
    arrays["classes"] = np.array([f"class {number}" for number in range(10)])
    parts, names = read_packed(saved(tmp_path / "x.npz", arrays), 8, 1)
    assert names[3] == "class 3"
    assert tuple(parts["train"].pixels(np.arange(3)).shape) == (3, 1, 8, 8)


def test_a_file_may_have_one_part_only(tmp_path: Path) -> None:
    arrays, _ = packed_images()
    test_only = {key: array for key, array in arrays.items() if "train" not in key}
    assert set(read_packed(saved(tmp_path / "x.npz", test_only), 32, 3)[0]) == {"test"}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"y_train": np.zeros(19, dtype=np.uint8)}, "20 train images, 20 headers and 19 labels"),
        ({"train_header": np.full(20, 9)}, "names a header that is not there"),
        ({"train_scan_len": np.full(20, 5)}, "train_scan_len add up to 100"),
        ({"train_scan_len": np.full(20, -5)}, "train_scan_len add up to -100"),
        ({"train_scan": np.zeros(3)}, "train_scan is not a row of bytes"),
        ({"header_len": np.zeros((1, 1), dtype=np.int64)}, "header_len is not a row of whole numbers"),
        ({"y_train": np.zeros(20)}, "y_train is not a row of whole numbers"),
        ({"headers": np.array([None])}, "cannot be read as an npz file"),
    ],
)
def test_files_that_do_not_add_up_are_refused(change: Arrays, match: str, tmp_path: Path) -> None:
    arrays, _ = packed_images()
    with pytest.raises(DataError, match=match):
        read_packed(saved(tmp_path / "x.npz", arrays | change), 32, 3)


def test_a_file_without_the_arrays_is_refused(tmp_path: Path) -> None:
    arrays, _ = packed_images()
    with pytest.raises(DataError, match="lacks the arrays header_len, headers"):
        read_packed(saved(tmp_path / "x.npz", {"a": np.zeros(1)}), 32, 3)
    heads = {key: arrays[key] for key in ("headers", "header_len")}
    with pytest.raises(DataError, match="neither y_train nor y_test"):
        read_packed(saved(tmp_path / "x.npz", heads), 32, 3)
    for raw in (b"", b"no npz", (tmp_path / "x.npz").read_bytes()[:300]):
        (tmp_path / "x.npz").write_bytes(raw)
        with pytest.raises(DataError, match="cannot be read as an npz file"):
            read_packed(tmp_path / "x.npz", 32, 3)
    np.save(tmp_path / "bare.npy", np.zeros(3))
    with pytest.raises(DataError, match="one bare array"):
        read_packed(tmp_path / "bare.npy", 32, 3)


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    arrays, _ = packed_images()
    arrays["headers"] = np.zeros_like(arrays["headers"])
    parts, _ = read_packed(saved(tmp_path / "x.npz", arrays), 32, 3)
    with pytest.raises(DataError, match=r"test image 4 of .*x\.npz cannot be read as an image"):
        parts["test"].pixels(np.array([4]))
