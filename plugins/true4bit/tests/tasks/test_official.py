"""The real data sets, where QCORE_DATA has them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from qcore.errors import DataError
from qcore.tasks import TaskData
from qcore_true4bit.tasks.cifar import Cifar10, Cifar100
from qcore_true4bit.tasks.fashion import FashionMnist
from qcore_true4bit.tasks.folder import ImageFolder

pytestmark = pytest.mark.data


@pytest.fixture
def folder() -> Path:
    named = os.environ.get("QCORE_DATA")
    if not named or not Path(named).is_dir():
        pytest.skip("no research data: set QCORE_DATA")
    return Path(named)


def found(task: Any) -> TaskData:
    try:
        data: TaskData = task.data
    except DataError as error:
        if "holds none of" in error.message:
            pytest.skip(error.message)
        raise
    return data


def means(data: TaskData) -> list[float]:
    train = data.inputs[: int((data.folds == -1).sum())] if data.folds is not None else data.inputs
    return [float(train[:, channel].to(torch.float64).mean() / 255) for channel in range(train.shape[1])]


@pytest.mark.parametrize(("task", "per_class"), [(Cifar10, 6000), (Cifar100, 600)])
def test_cifar(task: type[Any], per_class: int, folder: Path) -> None:
    data = found(task())
    assert tuple(data.inputs.shape) == (60_000, 3, 32, 32) and data.inputs.dtype == torch.uint8
    assert set(data.targets.bincount().tolist()) == {per_class}
    assert data.folds is not None and int((data.folds == 0).sum()) == 10_000
    if task is Cifar10:
        assert means(data) == pytest.approx([0.4914, 0.4822, 0.4465], abs=2e-4)


@pytest.mark.parametrize("form", [*Cifar10.forms, *Cifar100.forms], ids=lambda form: form.archive)
def test_every_official_archive_that_is_there(form: Any, folder: Path) -> None:
    task = Cifar10 if form in Cifar10.forms else Cifar100
    places = (folder / form.archive, folder / task.__name__.lower() / form.archive)
    archive = next((path for path in places if path.is_file()), None)
    if archive is None:
        pytest.skip(f"{form.archive} is not in {folder}")
    data = task(task.Config(data=str(archive))).data
    assert len(data) == 60_000 and "MD5 as published" in data.source


def test_fashion_mnist(folder: Path) -> None:
    data = found(FashionMnist())
    assert tuple(data.inputs.shape) == (70_000, 1, 28, 28)
    sha256 = "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012"
    assert hashlib.sha256(data.inputs[:60_000].numpy().tobytes()).hexdigest() == sha256
    assert means(data) == pytest.approx([0.2860], abs=1e-4)


def test_tiny_imagenet(folder: Path) -> None:
    path = folder / "tiny_imagenet_20" / "tiny_imagenet_20_jpeg.npz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    data = ImageFolder(ImageFolder.Config(data=str(path), limit=200)).data
    assert tuple(data.inputs.shape) == (400, 3, 64, 64) and len(data.class_names) == 20
    assert set(data.targets.bincount().tolist()) == {20}
