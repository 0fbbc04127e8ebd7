"""Image sets in the usual layout: ``train/<class>/`` and ``val/<class>/`` (or ``test/<class>/``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qcore.errors import DataError
from qcore.tasks.images import class_files
from qcore.tasks.parts import Part, Rows

__all__ = ["folder_part", "find_tested"]


def folder_part(
    folder: Path, name: str, read: Callable[[Path], Tensor], known: Sequence[str] | None = None
) -> tuple[Part, tuple[str, ...]]:
    """Return the images of a folder's class folders, decoded when they are asked for, and the names of the classes.

    Args:
        folder: of class folders.
        name: id of the task, for messages.
        read: given a file, returns (channels, height, width) uint8, of one size for all.
        known: the classes that there may be, whose order labels follow; None: those of the folder, sorted.

    Raises:
        DataError: ``folder`` has no class folders, an empty one, or one that is not ``known``.
    """
    files = class_files(folder, name)
    names = tuple(files) if known is None else tuple(known)
    unknown = sorted(set(files) - set(names))
    if unknown:
        raise DataError(f"{folder} has classes that the training part lacks: {', '.join(unknown[:5])}")
    places = {label: place for place, label in enumerate(names)}
    paths = [path for label in files for path in files[label]]
    labels = np.array([places[label] for label in files for _ in files[label]], dtype=np.int64)

    def pixels(rows: Rows) -> Tensor:
        images: Tensor | None = None
        for place, row in enumerate(rows.tolist()):
            image = read(paths[row])
            if images is None:
                images = torch.empty((len(rows), *image.shape), dtype=torch.uint8)
            images[place] = image
        if images is None:
            raise DataError(f"{folder}: no image is left")
        return images

    return Part(labels, pixels), names


def find_tested(root: Path, name: str, tested: Sequence[str] = ("test", "val")) -> Path | None:
    """Return the first of the folders ``tested`` that is there, or None if ``root`` holds class folders itself.

    Raises:
        DataError: there is ``train/`` with class folders, and none of ``tested``.
    """
    if not _has_folders(root / "train"):
        return None
    for part in tested:
        if _has_folders(root / part):
            return root / part
    hint = f"name {root / 'train'} itself to have folds drawn"
    wanted = " or ".join(f"{part}/" for part in tested)
    raise DataError(f"{name}: {root} has train/ but no class folders in {wanted}", hint)


def _has_folders(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_dir() for path in folder.iterdir())
