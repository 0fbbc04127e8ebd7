"""The tasks ``cifar10`` and ``cifar100``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from qcore.errors import DataError
from qcore.tasks.base import TaskData
from qcore.tasks.packed_jpeg import read_packed
from qcore.tasks.parts import Part, assemble
from qcore.tasks.paths import locate
from qcore_true4bit.tasks.base import ImageTask
from qcore_true4bit.tasks.checksums import check_digest, file_digest
from qcore_true4bit.tasks.cifar_files import Official, read_official
from qcore_true4bit.tasks.cifar_forms import CIFAR10_FORMS, CIFAR100_FORMS, Form
from qcore_true4bit.tasks.config import Cifar10Config, Cifar100Config

__all__ = ["Cifar10", "Cifar100", "check_counts"]

_PAGE: Final = "www.cs.toronto.edu/~kriz/cifar.html"

_COUNTS: Final = {"training": 50_000, "test": 10_000}

_PACKED: Final = "cifar10_jpeg.npz"
_PACKED_SHA256: Final = "394beb763366195ff2e02a9b48019566c6e053e692dae79ed1bd5b7ac6f88d96"

MEAN: Final = (0.4914, 0.4822, 0.4465)
STD: Final = (0.2023, 0.1994, 0.2010)
"""Of the channels, as shares of 255. "True 4-Bit Quantized CNN Training on CPU" scales both sets by these."""


class _Cifar(ImageTask):
    title: ClassVar[str]
    classes: ClassVar[int]
    forms: ClassVar[Sequence[Form]]
    config: Cifar10Config | Cifar100Config

    @property
    def crop(self) -> tuple[int, bool]:
        """Four pixels and mirror images, as in the paper."""
        return 4, True

    def load(self) -> TaskData:
        """Read inputs (60000, 3, 32, 32) uint8, targets (60000,), and the official split as one fold.

        Raises:
            DataError: the data are missing, damaged, or other than published and ``verify`` is on.
        """
        known = list(self._known())
        inside = [form.train[0] for form in self.forms]
        path = locate(self.config.data, known, inside, task=self._name, needs=self._needs(), page=_PAGE)
        read = self._read(path)
        names = read.class_names
        if len(set(names)) != self.classes or len(names) != self.classes:
            raise DataError(f"{path} names {len(set(names))} different classes, expected {self.classes}")
        if self.config.verify:
            check_counts(read, self.classes)
        return assemble(read.train, read.test, names, f"{self.title}, {read.source}", self.config.limit)

    def default_model(self) -> tuple[str, dict[str, Any]]:
        """Return the paper's network with the paper's scaling of the pixels."""
        options = {"in_channels": 3, "image_size": 32, "out_features": self.classes, "mean": MEAN, "std": STD}
        return "true4bit/vgg4bit", options

    @property
    def _name(self) -> str:
        return self.spec_id or f"true4bit/{type(self).__name__.lower()}"

    def _needs(self) -> str:
        return f"{self.title}: {' or '.join(form.archive for form in self.forms)}, or the folder extracted from one"

    def _known(self) -> Iterator[str]:
        """Yield what to look for: whole archives first, in the data folder itself or in one named after the task."""
        for folder in ("", f"{type(self).__name__.lower()}/"):
            for form in self.forms:
                yield f"{folder}{form.archive}"
                yield f"{folder}{form.folder}/{form.train[0]}"

    def _read(self, path: Path) -> Official:
        return read_official(path, self.forms, title=self.title, verify=self.config.verify)


class Cifar10(_Cifar):
    """Photographs of ten kinds of things: 50,000 to learn from and 10,000 to test.

    Reads the official archives, the folders extracted from them, and a packed JPEG copy (see ``packed_jpeg``), whose
    pixels differ from the original ones.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """

    Config = Cifar10Config
    config: Cifar10Config
    title = "CIFAR-10"
    classes = 10
    forms = CIFAR10_FORMS

    class_names: ClassVar[tuple[str, ...]] = (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )

    def _needs(self) -> str:
        return f"{super()._needs()}, or a packed JPEG copy ({_PACKED})"

    def _known(self) -> Iterator[str]:
        yield from super()._known()
        yield from (_PACKED, f"cifar10/{_PACKED}")

    def _read(self, path: Path) -> Official:
        if path.suffix == ".npz":
            return self._read_packed(path)
        read = super()._read(path)
        return Official(read.train, read.test, self.class_names, read.source)

    def _read_packed(self, path: Path) -> Official:
        if self.config.verify:
            check_digest(str(path), "sha256", file_digest(path, "sha256"), [_PACKED_SHA256])
        parts, _ = read_packed(path, 32, 3)
        if set(parts) != {"train", "test"}:
            raise DataError(f"{path} has no {'test' if 'train' in parts else 'training'} images")
        source = f"JPEG copy {path}, {'sha256 as known' if self.config.verify else 'not verified'}; its pixels are "
        remark = "re-encoded, so results must not be set beside published figures"
        return Official(parts["train"], parts["test"], self.class_names, source + remark)


class Cifar100(_Cifar):
    """Photographs of a hundred kinds of things: 50,000 to learn from and 10,000 to test.

    Reads the official archives and the folders extracted from them; labels are the fine ones.

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """

    Config = Cifar100Config
    config: Cifar100Config
    title = "CIFAR-100"
    classes = 100
    forms = CIFAR100_FORMS


def check_counts(read: Official, classes: int) -> None:
    """Raise DataError unless every class has the same share of the 50,000 and 10,000 images."""
    parts: dict[str, Part] = {"training": read.train, "test": read.test}
    for part, count in _COUNTS.items():
        labels = parts[part].labels
        if len(labels) != count:
            raise DataError(f"{read.source}: {len(labels)} {part} images, expected {count}")
        found = np.bincount(labels, minlength=classes)
        if (found != count // classes).any():
            odd = int(np.flatnonzero(found != count // classes)[0])
            raise DataError(
                f"{read.source}: class {odd} has {found[odd]} {part} images, expected {count // classes}",
                "the data are damaged; go on with --set task.verify=false",
            )
