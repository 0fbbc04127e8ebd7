from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qcore.errors import DataError
from qcore.tasks import make_folds
from qcore.testing.packed_images import packed_images
from qcore_hetero_diffq.tasks.config import ImageNetSampleConfig
from qcore_hetero_diffq.tasks.sample import ImageNetSample

pytest.importorskip("PIL.Image")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    arrays, _ = packed_images(16, train=0, test=12, classes=12)
    np.savez(tmp_path / "sample.npz", **arrays)
    return tmp_path / "sample.npz"


def task(file: Path, **options: Any) -> ImageNetSample:
    return ImageNetSample(ImageNetSampleConfig(**{"data": str(file), "size": 16} | options))


def test_labels_leave_a_place_for_the_background(file: Path) -> None:
    data = task(file).data
    assert torch.equal(data.inputs, torch.from_numpy(packed_images(16, 0, 12)[1]))
    assert data.targets.tolist() == list(range(1, 13))
    assert data.class_names[:2] == ("background", "0") and len(data.class_names) == 13
    assert data.folds is None and "sample.npz" in data.source


def test_without_background_labels_stay(file: Path) -> None:
    data = task(file, background=False, limit=5).data
    assert data.targets.tolist() == list(range(5)) and data.class_names[0] == "0"


def test_the_default_network_scales_as_its_weights_want(file: Path) -> None:
    name, options = task(file, weights="x.npz").default_model()
    assert (name, options["out_features"]) == ("hetero_diffq/mobilenet_v2", 13)
    assert (options["preprocessing"], options["padding"], options["norm"]) == ("symmetric", "tensorflow", False)
    assert options["weights"] == "x.npz"
    assert task(file, background=False).default_model()[1]["preprocessing"] == "torchvision"


def test_it_is_not_for_training(file: Path) -> None:
    with pytest.raises(DataError, match="fewer than 5 folds"):
        make_folds(task(file))


def test_missing_files_and_parts_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QCORE_DATA", raising=False)
    with pytest.raises(DataError, match="QCORE_DATA is not set"):
        _ = ImageNetSample().data
    arrays, _ = packed_images(16, train=2, test=0, classes=2)
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match="has no test images"):
        _ = task(tmp_path / "x.npz").data
