from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from qcore.errors import DataError
from qcore.tasks.image_folders import find_tested, folder_part


def read(path: Path) -> Tensor:
    """Read an image whose pixels are the number that its file is named after."""
    return torch.full((1, 2, 2), int(path.stem), dtype=torch.uint8)


def fill(folder: Path, **classes: int) -> Path:
    for label, count in classes.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            (folder / label / f"{number}.png").touch()
    return folder


def test_files_are_labelled_by_their_folders_and_read_when_asked_for(tmp_path: Path) -> None:
    part, names = folder_part(fill(tmp_path, b=2, a=3), "x/images", read)
    assert names == ("a", "b") and part.labels.tolist() == [0, 0, 0, 1, 1]
    assert part.pixels(np.array([4, 2]))[:, 0, 0, 0].tolist() == [1, 2]
    with pytest.raises(DataError, match="no image is left"):
        part.pixels(np.array([], dtype=np.int64))


def test_labels_follow_the_known_classes(tmp_path: Path) -> None:
    fill(tmp_path, b=1)
    assert folder_part(tmp_path, "x/images", read, ("a", "b"))[0].labels.tolist() == [1]
    with pytest.raises(DataError, match="classes that the training part lacks: b"):
        folder_part(tmp_path, "x/images", read, ("a",))


def test_the_first_find_tested_counts(tmp_path: Path) -> None:
    assert find_tested(fill(tmp_path / "plain", a=1), "x/images") is None
    root = tmp_path / "set"
    fill(root / "train", a=1)
    with pytest.raises(DataError, match="no class folders in test/ or val/"):
        find_tested(root, "x/images")
    fill(root / "val", a=1)
    assert find_tested(root, "x/images") == root / "val"
    fill(root / "test", a=1)
    assert find_tested(root, "x/images") == root / "test"
    assert find_tested(root, "x/images", ("val", "test")) == root / "val"
