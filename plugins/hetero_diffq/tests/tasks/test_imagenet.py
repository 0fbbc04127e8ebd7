from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from qcore.errors import DataError
from qcore.nn import build_model
from qcore.tasks import make_folds
from qcore_hetero_diffq.tasks.config import ImageNetConfig
from qcore_hetero_diffq.tasks.imagenet import ImageNet, reduction_for

Image = pytest.importorskip("PIL.Image")


def fill(root: Path, part: str, count: int, labels: tuple[str, ...] = ("n01", "n02")) -> Path:
    """Write images of 32 x 16: red with a blue border of two pixels."""
    for label in labels:
        (root / part / label).mkdir(parents=True)
        for number in range(count):
            pixels = np.zeros((16, 32, 3), dtype=np.uint8)
            pixels[..., 2] = 255
            pixels[2:-2, 10:-10] = (200, number, 0)
            Image.fromarray(pixels).save(root / part / label / f"{number}.png")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return fill(fill(tmp_path, "train", 4), "val", 2)


def task(data: Path, **options: Any) -> ImageNet:
    return ImageNet(ImageNetConfig(**{"data": str(data), "size": 16} | options))


def test_the_folders_give_the_split(root: Path) -> None:
    data = task(root).data
    assert tuple(data.inputs.shape) == (12, 3, 16, 16) and data.inputs.dtype == torch.uint8
    assert data.targets.tolist() == [0] * 4 + [1] * 4 + [0] * 2 + [1] * 2
    assert data.folds is not None and data.folds.tolist() == [-1] * 8 + [0] * 4
    assert data.class_names == ("n01", "n02") and "tested on val/" in data.source
    (fold,) = make_folds(task(root), validation=0.25)
    assert len(fold.train) == 6 and len(fold.test) == 4


def test_training_images_keep_the_square_and_test_images_its_middle(root: Path) -> None:
    inputs = task(root, crop=0.75).data.inputs
    assert inputs[0, :, 0, 8].tolist() == [0, 0, 255] and inputs[0, :, 8, 8].tolist() == [200, 0, 0]
    assert inputs[3, :, 8, 8].tolist() == [200, 3, 0]
    assert bool((inputs[8:, 0, 2:-2, 2:-2] > 190).all()), "the border is cut off"


def test_the_data_are_looked_for_in_the_data_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_DATA", str(root.parent))
    root.rename(root.parent / "imagenet")
    assert len(ImageNet(ImageNetConfig(size=8)).data) == 12
    monkeypatch.delenv("QCORE_DATA")
    with pytest.raises(DataError, match="needs a folder with train/ and val/"):
        _ = ImageNet().data


def test_other_layouts_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, "train", 1)
    with pytest.raises(DataError, match="no class folders in val/ or test/"):
        _ = task(tmp_path).data
    with pytest.raises(DataError, match="has no train/ with class folders"):
        _ = task(tmp_path / "train").data
    fill(tmp_path, "val", 1, ("n01", "n09"))
    with pytest.raises(DataError, match="the training part lacks: n09"):
        _ = task(tmp_path).data


def test_a_limit_takes_evenly_of_the_classes(root: Path) -> None:
    data = task(root, limit=2).data
    assert data.targets.tolist() == [0, 1, 0, 1] and "at most 2 samples" in data.source


def test_training_batches_are_cut_out_and_mirrored_at_random(root: Path) -> None:
    found = task(root)
    batch = found.data.inputs[:8]
    changed = found.augment(batch, torch.Generator().manual_seed(0))
    assert changed.shape == batch.shape and changed.dtype == torch.uint8 and not torch.equal(changed, batch)
    assert torch.equal(found.augment(batch, torch.Generator().manual_seed(0)), changed)
    assert task(root, augment=False).augment(batch, torch.Generator()) is batch


@pytest.mark.parametrize("network", ["efficientnet_lite0", "mobilenet_v2", "squeezenext", "resnet20"])
def test_the_default_network_takes_the_images_and_scales_them(network: str, root: Path) -> None:
    found = task(root, network=network, preprocessing="torchvision", size=8)
    name, options = found.default_model()
    assert name == f"hetero_diffq/{network}" and options["out_features"] == 2
    model = build_model(name, options).eval()
    assert model.scaler.mean.tolist() == pytest.approx([123.675, 116.28, 103.53])
    assert model(found.data.inputs[:2].float()).shape == (2, 2)


@pytest.mark.parametrize(("size", "reduction"), [(224, 32), (128, 32), (64, 16), (32, 8)])
def test_small_images_are_reduced_less(size: int, reduction: int) -> None:
    assert reduction_for(size) == reduction


def test_scores_tell_the_five_likeliest_classes(root: Path) -> None:
    found = task(root)
    assert found.metric == "accuracy" and found.higher_is_better
    logits, target = torch.eye(7)[[1, 2, 3, 4]].flip(1), torch.tensor([5, 0, 3, 1])
    scores = found.scores(logits + torch.linspace(0.7, 0, 7), target)
    assert set(scores) == set(found.metrics)
    assert scores["accuracy"] == 0.5 and scores["accuracy_top5"] == 1.0


@pytest.mark.parametrize("area", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.1)])
def test_shares_that_are_none_are_refused(area: tuple[float, float]) -> None:
    with pytest.raises(ValidationError, match="two shares"):
        ImageNetConfig(area=area)
