from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qcore.errors import DataError
from qcore_true4bit.tasks import idx
from qcore_true4bit.tasks.fashion import FashionMnist
from qcore_true4bit.tasks.idx import idx_bytes, read_idx

FILES = {
    "X_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "X_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QCORE_DATA", raising=False)


@pytest.fixture
def arrays() -> dict[str, NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    made = {}
    for part, count in (("train", 40), ("test", 20)):
        made[f"X_{part}"] = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        made[f"y_{part}"] = (np.arange(count) % 10).astype(np.uint8)
    return made


def written(folder: Path, arrays: dict[str, NDArray[np.uint8]], packed: bool) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for key, name in FILES.items():
        raw = idx_bytes(arrays[key])
        (folder / f"{name}{'.gz' if packed else ''}").write_bytes(gzip.compress(raw) if packed else raw)
    return folder


def task(data: Path | None, **options: Any) -> FashionMnist:
    given = {"data": None if data is None else str(data), "verify": False} | options
    return FashionMnist(FashionMnist.Config(**given))


def check(found: FashionMnist, arrays: dict[str, NDArray[np.uint8]]) -> None:
    data = found.data
    assert data.inputs.dtype == torch.uint8 and tuple(data.inputs.shape) == (60, 1, 28, 28)
    assert data.inputs[:40, 0].equal(torch.from_numpy(arrays["X_train"]))
    assert data.inputs[40:, 0].equal(torch.from_numpy(arrays["X_test"]))
    assert data.targets.tolist() == [*arrays["y_train"], *arrays["y_test"]]
    assert data.folds is not None and data.folds.tolist() == [-1] * 40 + [0] * 20
    assert data.class_names[9] == "Ankle boot"


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_read(packed: bool, arrays: Any, tmp_path: Path) -> None:
    folder = written(tmp_path / "f", arrays, packed)
    check(task(folder), arrays)
    check(task(folder / f"{FILES['X_train']}{'.gz' if packed else ''}"), arrays)


def test_an_npz_file_is_read(arrays: Any, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays, classes=np.array(["a"]))
    check(task(tmp_path / "x.npz"), arrays)
    np.savez(tmp_path / "y.npz", X_train=arrays["X_train"])
    with pytest.raises(DataError, match="lacks the arrays X_test, y_test, y_train"):
        _ = task(tmp_path / "y.npz").data
    np.savez(tmp_path / "z.npz", **arrays | {"y_test": np.array([None])})
    with pytest.raises(DataError, match="cannot be read as an npz file"):
        _ = task(tmp_path / "z.npz").data


@pytest.mark.parametrize("where", ["", "fashion_mnist", "FashionMNIST/raw"])
def test_data_are_found_under_their_usual_names(
    where: str, arrays: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QCORE_DATA", str(tmp_path))
    with pytest.raises(DataError, match="holds none of") as caught:
        _ = task(None).data
    assert "github.com/zalandoresearch/fashion-mnist" in str(caught.value)
    written(tmp_path / where, arrays, packed=True)
    check(task(None), arrays)


@pytest.mark.parametrize("packed", [True, False])
def test_other_contents_are_refused(packed: bool, arrays: Any, tmp_path: Path) -> None:
    folder = written(tmp_path, arrays, packed)
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte, unpacked, has the MD5 .* f4a8712d") as caught:
        _ = task(folder, verify=True).data
    assert "MNIST" in str(caught.value) and "task.verify=false" in str(caught.value)


def test_a_missing_file_is_named(arrays: Any, tmp_path: Path) -> None:
    folder = written(tmp_path, arrays, packed=False)
    (folder / FILES["y_test"]).unlink()
    with pytest.raises(DataError, match="lacks t10k-labels-idx1-ubyte"):
        _ = task(folder).data


def test_parts_that_do_not_fit_are_refused(arrays: Any, tmp_path: Path) -> None:
    for key, array, match in (
        ("X_test", arrays["X_test"][:, :27], r"test images are uint8 \(20, 27, 28\)"),
        ("X_test", arrays["y_test"], r"test images are uint8 \(20,\)"),
        ("y_test", arrays["y_test"][1:], r"test labels are uint8 \(19,\), expected uint8 \(20,\)"),
        ("y_test", arrays["y_test"] + 200, "labels run from 200"),
    ):
        with pytest.raises(DataError, match=match):
            _ = task(written(tmp_path, arrays | {key: array}, packed=False)).data


def test_damaged_idx_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = idx_bytes(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    path = tmp_path / "x"
    path.write_bytes(raw)
    assert read_idx(path).tolist() == np.arange(24).reshape(2, 3, 4).tolist()
    for broken in (b"", raw[:3], raw[:10], raw[:-1], raw + b"\x00", b"\x01" + raw[1:], raw[:2] + b"\x09" + raw[3:]):
        path.write_bytes(broken)
        with pytest.raises(DataError, match=str(path)):
            read_idx(path)
    path.write_bytes(raw[:4] + b"\xff" * 12 + raw[16:])
    with pytest.raises(DataError, match="its header says 79228162458924105385300197375"):
        read_idx(path)
    zipped = tmp_path / "x.gz"
    for broken in (b"no gzip", gzip.compress(raw)[:-4], b""):
        zipped.write_bytes(broken)
        with pytest.raises(DataError):
            read_idx(zipped)
    monkeypatch.setattr(idx, "_MAX_NBYTES", 1000)
    zipped.write_bytes(gzip.compress(bytes(1001)))
    with pytest.raises(DataError, match="more than 1000 bytes"):
        read_idx(zipped)


def test_augmentation_is_an_option() -> None:
    images = torch.randint(1, 256, (8, 1, 28, 28), dtype=torch.uint8)
    assert FashionMnist().crop == (2, True)
    assert not FashionMnist().augment(images, torch.Generator().manual_seed(0)).equal(images)
    for options in ({"augment": False}, {"padding": 0, "flip": False}):
        assert task(None, **options).augment(images, torch.Generator()) is images


def test_the_default_model_scales_by_these_data() -> None:
    name, options = FashionMnist().default_model()
    assert name == "true4bit/vgg4bit"
    assert options == {"in_channels": 1, "image_size": 28, "out_features": 10, "mean": (0.2860,), "std": (0.3530,)}
