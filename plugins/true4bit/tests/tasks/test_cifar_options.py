"""What ``cifar10`` and ``cifar100`` promise without any data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qcore.errors import DataError
from qcore.tasks.parts import from_arrays
from qcore_true4bit.tasks.cifar import Cifar10, Cifar100, check_counts
from qcore_true4bit.tasks.cifar_files import Official


def test_every_class_must_have_its_share() -> None:
    def read(train: NDArray[np.int64]) -> Official:
        labels = train, np.repeat(np.arange(10), 1000)
        return Official(*(from_arrays(np.zeros((len(part), 0), np.uint8), part) for part in labels), (), "here")

    train = np.repeat(np.arange(10), 5000)
    check_counts(read(train), 10)
    train[0] = 7
    with pytest.raises(DataError, match="class 0 has 4999 training images, expected 5000"):
        check_counts(read(train), 10)


def test_the_default_model_needs_no_data() -> None:
    name, options = Cifar100().default_model()
    assert name == "true4bit/vgg4bit"
    assert options == {
        "in_channels": 3,
        "image_size": 32,
        "out_features": 100,
        "mean": (0.4914, 0.4822, 0.4465),
        "std": (0.2023, 0.1994, 0.2010),
    }
    assert Cifar10().default_model()[1]["out_features"] == 10


def test_training_batches_are_cropped_and_mirrored_unless_told_not_to() -> None:
    images = torch.randint(1, 256, (32, 3, 32, 32), dtype=torch.uint8)
    changed = Cifar10().augment(images, torch.Generator().manual_seed(0))
    assert changed.shape == images.shape and changed.dtype == torch.uint8 and not changed.equal(images)
    assert changed.equal(Cifar10().augment(images, torch.Generator().manual_seed(0)))
    plain = Cifar10(Cifar10.Config(augment=False))
    assert plain.augment(images, torch.Generator()) is images
