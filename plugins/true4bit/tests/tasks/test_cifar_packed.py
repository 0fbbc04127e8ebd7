from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from qcore.errors import DataError
from qcore.testing.packed_images import packed_images
from qcore_true4bit.tasks.cifar import Cifar10

pytest.importorskip("PIL.Image")


def saved(path: Path, arrays: dict[str, NDArray[Any]]) -> Path:
    np.savez(path, **arrays)
    return path


def test_cifar10_reads_a_packed_copy_and_says_that_its_pixels_differ(tmp_path: Path) -> None:
    arrays, pixels = packed_images()
    path = saved(tmp_path / "cifar10_jpeg.npz", arrays)
    data = Cifar10(Cifar10.Config(data=str(tmp_path), verify=False)).data
    assert data.inputs.equal(torch.from_numpy(pixels))
    assert data.class_names == Cifar10.class_names
    assert "re-encoded" in data.source and "must not be set beside published figures" in data.source
    with pytest.raises(DataError, match=r"has the sha256 \w{64}, expected 394beb76"):
        _ = Cifar10(Cifar10.Config(data=str(path))).data


def test_packed_images_without_pillow_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "x.npz", packed_images()[0])
    real = builtins.__import__

    def without_pillow(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    with pytest.raises(DataError, match="pillow") as caught:
        _ = Cifar10(Cifar10.Config(data=str(path), verify=False)).data
    assert 'pip install "qcore-ml[images]"' in str(caught.value)


def test_a_packed_copy_without_training_images_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.npz", packed_images(train=0)[0])
    with pytest.raises(DataError, match="has no training images"):
        _ = Cifar10(Cifar10.Config(data=str(path), verify=False)).data
