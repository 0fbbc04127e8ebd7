"""The task ``image_folder``: images of one's own, or a packed-JPEG npz."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from qcore.errors import DataError
from qcore.tasks.base import TaskData
from qcore.tasks.image_folders import find_tested, folder_part
from qcore.tasks.images import read_pixels
from qcore.tasks.packed_jpeg import read_packed
from qcore.tasks.parts import Part, assemble
from qcore.tasks.paths import resolve_data
from qcore_true4bit.tasks.base import ImageTask
from qcore_true4bit.tasks.config import ImageFolderConfig

__all__ = ["ImageFolder"]

_NEEDS: Final = (
    "a folder with train/ and test/ (or val/) that hold one folder of images a class, a folder of such class folders, "
    "or a packed-JPEG npz"
)


class ImageFolder(ImageTask):
    """Images resized to one size, with the split that their folders give.

    - ``train/<class>/`` and ``test/<class>/`` (without it ``val/<class>/``): one fold, tested on the latter;
    - ``<class>/``: folds are drawn, and ``limit`` counts all samples;
    - an npz file of packed JPEG images (see ``packed_jpeg``): as it says.
    """

    Config = ImageFolderConfig
    config: ImageFolderConfig

    @property
    def crop(self) -> tuple[int, bool]:
        """Options ``padding``, by default an eighth of the size, and ``flip``."""
        padding = self.config.size // 8 if self.config.padding is None else self.config.padding
        return padding, self.config.flip

    def load(self) -> TaskData:
        """Read inputs (n, channels, size, size) uint8 and targets (n,).

        Raises:
            DataError: the data are missing, or an image is corrupt.
        """
        name = self.spec_id or "true4bit/image_folder"
        path = resolve_data(self.config.data, name, _NEEDS)
        if path.is_file():
            return self._load_packed(path)
        tested = find_tested(path, name)
        train, names = self._part(path if tested is None else path / "train", name, None)
        test = None if tested is None else self._part(tested, name, names)[0]
        source = f"{path}, tested on {tested.name}/" if tested else str(path)
        return assemble(train, test, names, source, self.config.limit)

    def default_model(self) -> tuple[str, dict[str, Any]]:
        """Return the paper's network for these images; it fits the scaling of its inputs."""
        options = {"in_channels": self.config.channels, "image_size": self.config.size}
        return "true4bit/vgg4bit", options | {"out_features": self.out_features}

    def _load_packed(self, path: Path) -> TaskData:
        parts, names = read_packed(path, self.config.size, self.config.channels)
        if "train" not in parts:
            raise DataError(f"{path} has no training images")
        return assemble(parts["train"], parts.get("test"), names, f"packed JPEG {path}", self.config.limit)

    def _part(self, folder: Path, name: str, known: tuple[str, ...] | None) -> tuple[Part, tuple[str, ...]]:
        """Return the images of a folder's class folders, and the names that the labels index."""
        size, channels = self.config.size, self.config.channels
        return folder_part(folder, name, lambda path: read_pixels(path, size, channels), known)
