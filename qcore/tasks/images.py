"""The task ``core/images``: a folder with one folder of images a class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qcore.errors import DataError
from qcore.tasks.base import Task, TaskData
from qcore.tasks.config import ImagesConfig
from qcore.tasks.paths import resolve_data

__all__ = ["SUFFIXES", "Images", "read_image"]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"})

_NEEDS = "a folder with one folder of images a class"


class Images(Task):
    """``folder/<class>/*.png`` and the like, resized to one size; classes are in sorted order."""

    Config = ImagesConfig
    config: ImagesConfig

    def load(self) -> TaskData:
        """Read all images into (n, channels, size, size) float32 of 0..1.

        Raises:
            DataError: the folder is missing, has no class folders or an empty one, or an image is corrupt.
        """
        root = resolve_data(self.config.data, self.spec_id or "core/images", _NEEDS)
        files = _class_files(root)
        images = [
            read_image(path, self.config.size, self.config.channels) for paths in files.values() for path in paths
        ]
        counts = torch.tensor([len(paths) for paths in files.values()])
        return TaskData(
            inputs=torch.stack(images),
            targets=torch.repeat_interleave(torch.arange(len(files)), counts),
            class_names=tuple(files),
            source=str(root),
        )


def read_image(path: Path, size: int, channels: int) -> Tensor:
    """Return one image as (channels, size, size) float32 of 0..1, resized bilinearly without keeping its aspect.

    Raises:
        DataError: the file is corrupt or no image, or pillow is not installed.
    """
    pillow = _pillow()
    try:
        with pillow.open(path) as image:
            pixels = image.convert("RGB" if channels == 3 else "L").resize((size, size), pillow.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        raise DataError(f"{path} cannot be read as an image: {error}", "mend or remove the file") from error
    array = np.asarray(pixels, dtype=np.float32).reshape(size, size, channels) / 255.0
    return torch.from_numpy(array.transpose(2, 0, 1).copy())


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        hint = 'pip install "qcore-ml[images]"'
        raise DataError("reading images needs pillow, which is not installed", hint) from error
    return Image


def _class_files(root: Path) -> dict[str, list[Path]]:
    """Return the image files of each class folder, both sorted by name."""
    if not root.is_dir():
        raise DataError(f"{root} is not a folder", f"core/images needs {_NEEDS}")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = {folder.name: sorted(path for path in folder.iterdir() if _is_image(path)) for folder in folders}
    if not files:
        raise DataError(f"{root} has no class folders", f"core/images needs {_NEEDS}")
    empty = [name for name, paths in files.items() if not paths]
    if empty:
        raise DataError(
            f"{root}: no images in {', '.join(map(repr, empty[:5]))}", f"known kinds are {', '.join(sorted(SUFFIXES))}"
        )
    return files


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
