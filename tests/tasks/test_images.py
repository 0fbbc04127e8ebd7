from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qcore.errors import DataError
from qcore.tasks import Images, ImagesConfig
from qcore.tasks.images import read_image, read_pixels

Image = pytest.importorskip("PIL.Image")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for label, colour in (("blue", (0, 0, 255)), ("amber", (255, 191, 0))):
        (tmp_path / label).mkdir()
        for index, suffix in enumerate(("png", "jpg")):
            Image.new("RGB", (20, 10), colour).save(tmp_path / label / f"{index}.{suffix}")
    (tmp_path / "blue" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    return tmp_path


def images(folder: Path, **options: Any) -> Images:
    return Images(ImagesConfig(data=str(folder), **options))


def test_a_folder_of_class_folders_becomes_images_of_one_size(folder: Path) -> None:
    task = images(folder, size=8)
    data = task.data
    assert tuple(data.inputs.shape) == (4, 3, 8, 8) and data.inputs.dtype == torch.float32
    assert data.class_names == ("amber", "blue") and data.targets.tolist() == [0, 0, 1, 1]
    assert data.inputs[2, :, 0, 0].tolist() == [0.0, 0.0, 1.0]
    assert data.inputs.min() >= 0 and data.inputs.max() <= 1
    assert task.default_model()[0] == "core/cnn"


def test_one_channel_is_grey(folder: Path) -> None:
    inputs = images(folder, size=8, channels=1).data.inputs
    assert tuple(inputs.shape) == (4, 1, 8, 8)
    assert inputs[2, 0, 0, 0] == pytest.approx(0.114, abs=0.01)


def test_rows_are_not_swapped_with_columns(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[0] = 255
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        Image.fromarray(pixels).save(tmp_path / label / "x.png")
    first = images(tmp_path, size=8).data.inputs[0]
    assert bool((first[:, 0, :] == 1).all()) and bool((first[:, 1:, :] == 0).all())


def test_an_image_file_and_its_bytes_give_the_same_pixels(folder: Path) -> None:
    path = folder / "amber" / "1.jpg"
    pixels = read_pixels(path, 16, 3)
    assert pixels.dtype == torch.uint8 and tuple(pixels.shape) == (3, 16, 16)
    assert read_pixels(path.read_bytes(), 16, 3).equal(pixels)
    assert read_image(path, 16, 3).equal(pixels / 255)


def test_corrupt_bytes_are_named_as_told() -> None:
    with pytest.raises(DataError, match="image 7 of the pack cannot be read"):
        read_pixels(b"no image", 8, 3, "image 7 of the pack")


def test_a_corrupt_image_is_named(folder: Path) -> None:
    whole = (folder / "blue" / "0.png").read_bytes()
    for broken in (b"not an image", whole[: len(whole) // 2], b""):
        (folder / "blue" / "0.png").write_bytes(broken)
        with pytest.raises(DataError, match=r"blue.0\.png cannot be read as an image"):
            _ = images(folder).data


def test_folders_without_images_and_no_folders_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="no images in 'empty'"):
        _ = images(folder).data
    with pytest.raises(DataError, match="no class folders"):
        _ = images(folder / "blue").data
    with pytest.raises(DataError, match="is not a folder"):
        _ = images(folder / "blue" / "1.jpg").data


def test_images_without_pillow_say_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_pillow(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    with pytest.raises(DataError, match="pillow") as caught:
        _ = images(folder).data
    assert 'pip install "qcore-ml[images]"' in str(caught.value)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_images_of_more_than_8_bits_are_refused(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "deep.tif"
    pytest.importorskip("PIL.Image").new(mode, (8, 8)).save(path)
    with pytest.raises(DataError, match="more than 8 bits a channel"):
        read_image(path, 8, 1)


@pytest.mark.parametrize("bicubic", [False, True])
def test_the_square_in_the_middle_keeps_the_aspect(tmp_path: Path, bicubic: bool) -> None:
    pixels = np.zeros((40, 100, 3), dtype=np.uint8)
    pixels[4:36, 34:66] = (10, 200, 30)  # the middle 32 x 32: 0.8 of the shorter side
    Image.fromarray(pixels).save(tmp_path / "x.png")
    middle = read_pixels(tmp_path / "x.png", 16, 3, crop=0.8, bicubic=bicubic)[:, 3:-3, 3:-3]
    assert middle.shape == (3, 10, 10) and torch.equal(middle, middle[:, :1, :1].expand(3, 10, 10))
    assert middle[:, 0, 0].tolist() == [10, 200, 30]  # pixels at the edge have a share of what is cut off
    whole = read_pixels(tmp_path / "x.png", 40, 3, crop=1.0, bicubic=bicubic)
    assert torch.equal(whole.permute(1, 2, 0), torch.from_numpy(pixels[:, 30:70].copy()))
    squeezed = read_pixels(tmp_path / "x.png", 16, 3, bicubic=bicubic)
    assert squeezed[1, 8].tolist()[:4] == [0, 0, 0, 0] and squeezed[1, 8, 8] == 200
