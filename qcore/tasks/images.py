"""The task ``core/images``: a folder with one folder of images a class."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qcore.errors import DataError
from qcore.tasks.base import Task, TaskData
from qcore.tasks.config import ImagesConfig
from qcore.tasks.paths import resolve_data

__all__ = ["SUFFIXES", "Images", "class_files", "import_pillow", "read_image", "read_pixels"]

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
        name = self.spec_id or "core/images"
        root = resolve_data(self.config.data, name, _NEEDS)
        files = class_files(root, name)
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
    """Return one image as (channels, size, size) float32 of 0..1; see ``read_pixels``."""
    return read_pixels(path, size, channels).to(torch.float32) / 255.0


def read_pixels(
    source: Path | bytes,
    size: int,
    channels: int,
    name: str | None = None,
    *,
    crop: float | None = None,
    bicubic: bool = False,
) -> Tensor:
    """Return one image as (channels, size, size) uint8.

    Args:
        source: a file, or its bytes.
        size: height and width.
        channels: 1 = grey, 3 = red, green, blue.
        name: of the image in messages; by default its path.
        crop: side of the square in the middle that is kept, for the image's shorter side: 224 / 256 is as if the
            shorter side were resized to 256 first and 224 then cut out. None: the whole image, without its aspect.
        bicubic: resize bicubically, not bilinearly.

    Raises:
        DataError: the file is corrupt or no image, or pillow is not installed.
    """
    pillow = import_pillow()
    resample = pillow.Resampling.BICUBIC if bicubic else pillow.Resampling.BILINEAR
    try:
        with pillow.open(BytesIO(source) if isinstance(source, bytes) else source) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"it has more than 8 bits a channel (mode {image.mode}), which would be cut off")
            box = None if crop is None else _middle(image.width, image.height, crop)
            pixels = image.convert("RGB" if channels == 3 else "L").resize((size, size), resample, box=box)
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        shown = name or ("the file" if isinstance(source, bytes) else source)
        raise DataError(f"{shown} cannot be read as an image: {error}", "mend or remove the file") from error
    array = np.asarray(pixels, dtype=np.uint8).reshape(size, size, channels)
    return torch.from_numpy(array.transpose(2, 0, 1).copy())


def _middle(width: int, height: int, crop: float) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the square in the middle, whose side is ``crop`` of the shorter one."""
    side = crop * min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def import_pillow() -> Any:
    """Return ``PIL.Image``.

    Raises:
        DataError: pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        hint = 'pip install "qcore-ml[images]"'
        raise DataError("reading images needs pillow, which is not installed", hint) from error
    return Image


def class_files(root: Path, name: str) -> dict[str, list[Path]]:
    """Return the image files of each class folder in ``root``, both sorted by name.

    Args:
        root: folder of class folders.
        name: id of the task, for messages.

    Raises:
        DataError: ``root`` is no folder, or has no class folders or an empty one.
    """
    if not root.is_dir():
        raise DataError(f"{root} is not a folder", f"{name} needs {_NEEDS}")
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = {folder.name: sorted(path for path in folder.iterdir() if _is_image(path)) for folder in folders}
    if not files:
        raise DataError(f"{root} has no class folders", f"{name} needs {_NEEDS}")
    empty = [label for label, paths in files.items() if not paths]
    if empty:
        raise DataError(
            f"{root}: no images in {', '.join(map(repr, empty[:5]))}", f"known kinds are {', '.join(sorted(SUFFIXES))}"
        )
    return files


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
