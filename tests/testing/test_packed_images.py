from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qcore.tasks.packed_jpeg import read_packed
from qcore.testing.packed_images import packed_images

pytest.importorskip("PIL.Image")


@pytest.mark.parametrize("train", [0, 3])
def test_what_it_says_that_a_file_shows_is_what_reading_gives(train: int, tmp_path: Path) -> None:
    arrays, pixels = packed_images(16, train, 4, classes=2)
    np.savez(tmp_path / "x.npz", **arrays)
    parts, names = read_packed(tmp_path / "x.npz", 16, 3)
    assert names == ("0", "1") and set(parts) == ({"train", "test"} if train else {"test"})
    assert np.array_equal(parts["test"].pixels(np.arange(4)).numpy(), pixels[train:])
