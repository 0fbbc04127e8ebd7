"""The task ``imagenet``: the folders of ImageNet-1k, or any others of that layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from qcore.errors import DataError
from qcore.tasks.base import TaskData
from qcore.tasks.image_folders import find_tested, folder_part
from qcore.tasks.images import read_pixels
from qcore.tasks.parts import assemble
from qcore.tasks.paths import resolve_data
from qcore_hetero_diffq.tasks.augment import random_resized_crop
from qcore_hetero_diffq.tasks.base import ImageNetTask
from qcore_hetero_diffq.tasks.config import ImageNetConfig

__all__ = ["ImageNet", "reduction_for"]

_NEEDS: Final = "a folder with train/ and val/ that hold one folder of images a class"


class ImageNet(ImageNetTask):
    """``train/<class>/`` to learn from and ``val/<class>/`` to test on; classes are in sorted order.

    Images are decoded when the data are read: as many as ``limit`` leaves, into ``3 size**2`` bytes each. Of a test
    image the middle is kept, as much of it as ``crop`` says, of a training image the whole square in the middle.
    Training batches get random resized crops and mirror images of what is kept.

    All of ImageNet at 224 pixels would take 193 GB: limit it, or lower ``size``.

    Source: Russakovsky et al. 2015, arXiv:1409.0575; crops as in arXiv:2206.07741.
    """

    Config = ImageNetConfig
    config: ImageNetConfig

    def load(self) -> TaskData:
        """Read inputs (n, 3, size, size) uint8, targets (n,), and one fold that is tested on ``val/``.

        Raises:
            DataError: there is no such folder, a part or its class folders are missing, or an image is corrupt.
        """
        name = self.spec_id or "hetero_diffq/imagenet"
        root = resolve_data(self.config.data, name, _NEEDS)
        tested = find_tested(root, name, ("val", "test"))
        if tested is None:
            raise DataError(f"{name} needs {_NEEDS}; {root} has no train/ with class folders", "check the path")
        train, names = folder_part(root / "train", name, self._reader(1.0))
        test, _ = folder_part(tested, name, self._reader(self.config.crop), names)
        return assemble(train, test, names, f"{root}, tested on {tested.name}/", self.config.limit)

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return a training batch (n, 3, size, size), cut out and mirrored at random."""
        if not self.config.augment:
            return inputs
        return random_resized_crop(inputs, self.config.area, generator, flip=self.config.flip)

    def default_model(self) -> tuple[str, dict[str, Any]]:
        """Return the network of the option, which scales the pixels as the option ``preprocessing`` says."""
        options: dict[str, Any] = {"out_features": self.out_features, "preprocessing": self.config.preprocessing}
        if self.config.network != "resnet20":
            options["reduction"] = reduction_for(self.config.size)
        return f"hetero_diffq/{self.config.network}", options

    def _reader(self, crop: float) -> Callable[[Path], Tensor]:
        size = self.config.size
        return lambda path: read_pixels(path, size, 3, crop=crop, bicubic=True)


def reduction_for(size: int) -> int:
    """Return the pixels of an image of ``size`` that one of the last map stands for: 32 as usual, fewer below 128."""
    return 32 if size >= 128 else 16 if size >= 64 else 8
