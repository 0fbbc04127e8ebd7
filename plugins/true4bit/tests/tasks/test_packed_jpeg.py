from __future__ import annotations

import builtins
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qcore.errors import DataError
from qcore_true4bit.tasks.cifar import Cifar10
from qcore_true4bit.tasks.packed_jpeg import read_packed

Image = pytest.importorskip("PIL.Image")

Arrays = dict[str, NDArray[Any]]


def jpeg(seed: int, size: int) -> tuple[bytes, NDArray[np.uint8]]:
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=75 + seed % 2)
    return file.getvalue(), np.asarray(Image.open(file).convert("RGB"))


def packed(size: int = 32, counts: tuple[int, int] = (20, 10)) -> tuple[Arrays, NDArray[np.uint8]]:
    """Return the arrays of a packed file whose images of two qualities share two headers, and its pixels."""
    arrays: Arrays = {}
    heads: list[bytes] = []
    decoded = []
    for split, count in zip(("train", "test"), counts, strict=True):
        whole = [jpeg(seed, size) for seed in range(count)]
        decoded += [pixels for _, pixels in whole]
        cuts = [raw.index(b"\xff\xda") for raw, _ in whole]
        heads = list(dict.fromkeys([*heads, *(raw[:cut] for (raw, _), cut in zip(whole, cuts, strict=True))]))
        scans = [raw[cut:] for (raw, _), cut in zip(whole, cuts, strict=True)]
        arrays[f"{split}_scan"] = np.frombuffer(b"".join(scans), dtype=np.uint8)
        arrays[f"{split}_scan_len"] = np.array([len(scan) for scan in scans], dtype=np.uint16)
        numbers = [heads.index(raw[:cut]) for (raw, _), cut in zip(whole, cuts, strict=True)]
        arrays[f"{split}_header"] = np.array(numbers, dtype=np.uint8)
        arrays[f"y_{split}"] = (np.arange(count) % 10).astype(np.uint8)
    arrays["headers"] = np.frombuffer(b"".join(heads), dtype=np.uint8)
    arrays["header_len"] = np.array([len(head) for head in heads], dtype=np.int32)
    return arrays, np.stack(decoded).transpose(0, 3, 1, 2)


def saved(path: Path, arrays: Arrays) -> Path:
    np.savez(path, **arrays)
    return path


def test_images_come_back_as_their_files_show_them(tmp_path: Path) -> None:
    arrays, pixels = packed()
    parts, names = read_packed(saved(tmp_path / "x.npz", arrays), 32, 3)
    assert names == tuple("0123456789") and len(arrays["header_len"]) == 2
    assert parts["train"].pixels(np.arange(20)).equal(torch.from_numpy(pixels[:20].copy()))
    assert parts["test"].pixels(np.array([7, 2])).equal(torch.from_numpy(pixels[[27, 22]].copy()))
    assert parts["test"].labels.tolist() == list(range(10))


def test_class_names_and_sizes_are_taken_as_given(tmp_path: Path) -> None:
    arrays, _ = packed(16)
    arrays["classes"] = np.array([f"class {number}" for number in range(10)])
    parts, names = read_packed(saved(tmp_path / "x.npz", arrays), 8, 1)
    assert names[3] == "class 3"
    assert tuple(parts["train"].pixels(np.arange(3)).shape) == (3, 1, 8, 8)


def test_a_file_may_have_one_part_only(tmp_path: Path) -> None:
    arrays, _ = packed()
    test_only = {key: array for key, array in arrays.items() if "train" not in key}
    assert set(read_packed(saved(tmp_path / "x.npz", test_only), 32, 3)[0]) == {"test"}
    with pytest.raises(DataError, match="has no training images"):
        _ = Cifar10(Cifar10.Config(data=str(tmp_path / "x.npz"), verify=False)).data


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
    arrays, _ = packed()
    with pytest.raises(DataError, match=match):
        read_packed(saved(tmp_path / "x.npz", arrays | change), 32, 3)


def test_a_file_without_the_arrays_is_refused(tmp_path: Path) -> None:
    arrays, _ = packed()
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
    arrays, _ = packed()
    arrays["headers"] = np.zeros_like(arrays["headers"])
    parts, _ = read_packed(saved(tmp_path / "x.npz", arrays), 32, 3)
    with pytest.raises(DataError, match=r"test image 4 of .*x\.npz cannot be read as an image"):
        parts["test"].pixels(np.array([4]))


def test_cifar10_reads_a_packed_copy_and_says_that_its_pixels_differ(tmp_path: Path) -> None:
    arrays, pixels = packed()
    path = saved(tmp_path / "cifar10_jpeg.npz", arrays)
    data = Cifar10(Cifar10.Config(data=str(tmp_path), verify=False)).data
    assert data.inputs.equal(torch.from_numpy(pixels.copy()))
    assert data.class_names == Cifar10.class_names
    assert "re-encoded" in data.source and "must not be set beside published figures" in data.source
    with pytest.raises(DataError, match=r"has the sha256 \w{64}, expected 394beb76"):
        _ = Cifar10(Cifar10.Config(data=str(path))).data


def test_packed_images_without_pillow_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "x.npz", packed()[0])
    real = builtins.__import__

    def without_pillow(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    with pytest.raises(DataError, match="pillow") as caught:
        _ = Cifar10(Cifar10.Config(data=str(path), verify=False)).data
    assert 'pip install "qcore-ml[images]"' in str(caught.value)
