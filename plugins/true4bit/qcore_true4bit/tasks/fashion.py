"""The task ``fashion_mnist``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qcore.errors import DataError
from qcore.tasks.base import TaskData
from qcore.tasks.npz import read_npz
from qcore.tasks.parts import Part, assemble, from_arrays
from qcore.tasks.paths import locate
from qcore_true4bit.tasks.base import ImageTask
from qcore_true4bit.tasks.checksums import check_digest, md5
from qcore_true4bit.tasks.config import FashionMnistConfig
from qcore_true4bit.tasks.idx import idx_bytes, read_idx

__all__ = ["FashionMnist"]

_PAGE: Final = "github.com/zalandoresearch/fashion-mnist"

_FILES: Final = {
    "X_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "X_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}

_MD5: Final = {
    "X_train": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    "y_train": "9018921c3c673c538a1fc5bad174d6f9",
    "X_test": "8181f5470baa50b63fa0f6fddb340f0a",
    "y_test": "15d484375f8d13e6eb1aabb0c3f46965",
}
"""Of the unpacked idx files: they hold for the packed ones, and for arrays written back as idx, just as well."""

_MISMATCH: Final = (
    "it is damaged, or MNIST, whose files have the same names: get it again, or go on with --set task.verify=false"
)

_FOLDERS: Final = ("", "fashion_mnist/", "FashionMNIST/raw/")

_NEEDS: Final = f"Fashion-MNIST: the four files {', '.join(_FILES.values())} (also with .gz), or fashion_mnist.npz"

CLASS_NAMES: Final = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

MEAN: Final = (0.2860,)
STD: Final = (0.3530,)
"""Of the training pixels, as shares of 255."""

Arrays = dict[str, NDArray[np.uint8]]


class FashionMnist(ImageTask):
    """Grey pictures of ten kinds of garments: 60,000 to learn from and 10,000 to test.

    Training images are shifted by up to 2 pixels, as the garments fill the picture, and mirrored: most garments are
    about symmetric, and a mirrored shoe is still a shoe. ``augment=false`` turns both off.

    Source: H. Xiao, K. Rasul, R. Vollgraf, "Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms", arXiv:1708.07747.
    """

    Config = FashionMnistConfig
    config: FashionMnistConfig

    @property
    def crop(self) -> tuple[int, bool]:
        """Options ``padding`` and ``flip``."""
        return self.config.padding, self.config.flip

    def load(self) -> TaskData:
        """Read inputs (70000, 1, 28, 28) uint8, targets (70000,), and the official split as one fold.

        Raises:
            DataError: the data are missing, damaged, or other than published and ``verify`` is on.
        """
        name = self.spec_id or "true4bit/fashion_mnist"
        path = locate(self.config.data, _known(), (), task=name, needs=_NEEDS, page=_PAGE)
        arrays = read_npz(path, _FILES) if path.suffix == ".npz" else _read_files(path.parent)
        train, test = (_part(arrays, part, path) for part in ("train", "test"))
        if self.config.verify:
            for key, array in arrays.items():
                if key in _MD5:
                    what = f"{path if path.suffix == '.npz' else path.parent}: {_FILES[key]}, unpacked,"
                    check_digest(what, "MD5", md5(idx_bytes(array)), [_MD5[key]], _MISMATCH)
        verified = "MD5 of the unpacked files as published" if self.config.verify else "not verified"
        source = f"Fashion-MNIST, {path if path.suffix == '.npz' else path.parent}, {verified}"
        return assemble(train, test, CLASS_NAMES, source, self.config.limit)

    def default_model(self) -> tuple[str, dict[str, Any]]:
        """Return the paper's network for one channel, with these data's own scaling of the pixels."""
        options = {"in_channels": 1, "image_size": 28, "out_features": len(CLASS_NAMES), "mean": MEAN, "std": STD}
        return "true4bit/vgg4bit", options


def _known() -> list[str]:
    first = _FILES["X_train"]
    kinds = (f"{first}.gz", first, "fashion_mnist.npz")
    return [f"{folder}{kind}" for kind in kinds for folder in _FOLDERS]


def _read_files(folder: Path) -> Arrays:
    return {key: read_idx(_packed_or_not(folder, name)) for key, name in _FILES.items()}


def _packed_or_not(folder: Path, name: str) -> Path:
    for candidate in (folder / f"{name}.gz", folder / name):
        if candidate.is_file():
            return candidate
    raise DataError(f"{folder} lacks {name} and {name}.gz", f"get it from {_PAGE}")


def _part(arrays: Arrays, part: str, path: Path) -> Part:
    pixels, labels = arrays[f"X_{part}"], arrays[f"y_{part}"]
    if pixels.dtype != np.uint8 or pixels.shape[1:] != (28, 28):
        raise DataError(f"{path}: the {part} images are {pixels.dtype} {pixels.shape}, expected uint8 (n, 28, 28)")
    if labels.dtype != np.uint8 or labels.shape != (len(pixels),):
        raise DataError(f"{path}: the {part} labels are {labels.dtype} {labels.shape}, expected uint8 ({len(pixels)},)")
    return from_arrays(pixels[:, None], labels.astype(np.int64))
