from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from qcore.errors import DataError
from qcore.tasks import make_folds
from qcore_true4bit.tasks.config import ImageFolderConfig
from qcore_true4bit.tasks.folder import ImageFolder

Image = pytest.importorskip("PIL.Image")

COLOURS = {"amber": (255, 191, 0), "blue": (0, 0, 255)}


def fill(folder: Path, count: int, labels: tuple[str, ...] = ("amber", "blue")) -> Path:
    for label in labels:
        (folder / label).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (20, 10), COLOURS.get(label, (0, 0, 0))).save(folder / label / f"{number}.png")
    return folder


def task(data: Path, **options: Any) -> ImageFolder:
    return ImageFolder(ImageFolderConfig(**{"data": str(data), "size": 16} | options))


@pytest.mark.parametrize("tested", ["test", "val"])
def test_the_folders_give_the_split(tested: str, tmp_path: Path) -> None:
    fill(tmp_path / "train", 3)
    fill(tmp_path / tested, 2)
    data = task(tmp_path).data
    assert tuple(data.inputs.shape) == (10, 3, 16, 16) and data.inputs.dtype == torch.uint8
    assert data.class_names == ("amber", "blue")
    assert data.targets.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert data.folds is not None and data.folds.tolist() == [-1] * 6 + [0] * 4
    assert data.inputs[0, :, 0, 0].tolist() == [255, 191, 0] and data.inputs[-1, :, 0, 0].tolist() == [0, 0, 255]
    assert f"tested on {tested}/" in data.source


def test_test_comes_before_val(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 2), ("test", 1)):
        fill(tmp_path / part, count)
    assert len(task(tmp_path).data) == 8


def test_class_folders_alone_leave_the_folds_to_the_core(tmp_path: Path) -> None:
    found = task(fill(tmp_path, 10))
    assert found.data.folds is None and len(make_folds(found)) == 5
    assert len(task(tmp_path, limit=6).data) == 6


def test_a_class_named_train_is_a_class(tmp_path: Path) -> None:
    assert task(fill(tmp_path, 2, ("plane", "train"))).data.class_names == ("plane", "train")


def test_splits_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "train", 1)
    with pytest.raises(DataError, match="no class folders in test/ or val/"):
        _ = task(tmp_path).data
    fill(tmp_path / "test", 1, ("amber", "green"))
    with pytest.raises(DataError, match="classes that the training part lacks: green"):
        _ = task(tmp_path).data


def test_a_test_part_may_lack_a_class(tmp_path: Path) -> None:
    fill(tmp_path / "train", 1)
    fill(tmp_path / "test", 1, ("blue",))
    assert task(tmp_path).data.targets.tolist() == [0, 1, 1]


def test_missing_folders_and_corrupt_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is nothing at"):
        _ = task(tmp_path / "none").data
    with pytest.raises(DataError, match="needs a folder with train/"):
        _ = ImageFolder().data
    (fill(tmp_path, 1) / "blue" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"blue.0\.png cannot be read as an image"):
        _ = task(tmp_path).data


def test_options_shape_images_and_model(tmp_path: Path) -> None:
    found = task(fill(tmp_path, 2), channels=1)
    assert tuple(found.data.inputs.shape) == (4, 1, 16, 16)
    assert found.default_model() == ("true4bit/vgg4bit", {"in_channels": 1, "image_size": 16, "out_features": 2})
    assert found.crop == (2, True)
    assert task(tmp_path, padding=0, flip=False).crop == (0, False)


def test_padding_beyond_half_of_the_size_is_refused() -> None:
    with pytest.raises(ValidationError, match="more than half"):
        ImageFolderConfig(size=16, padding=9)
