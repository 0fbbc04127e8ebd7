"""The forms in which CIFAR is published: records of bytes, or pickled dictionaries.

Checksums: those of the archives are on the data's page, www.cs.toronto.edu/~kriz/cifar.html; those of the files of the
python version are in torchvision/datasets/cifar.py. None are published for the files of the binary version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qcore.errors import DataError
from qcore.tasks.parts import Rows
from qcore_true4bit.tasks.pickled import read_pickled

__all__ = ["CIFAR100_FORMS", "CIFAR10_FORMS", "Batch", "Form"]

_SHAPE: Final = (3, 32, 32)
_PIXELS: Final = 3 * 32 * 32


@dataclass(frozen=True, eq=False)
class Batch:
    """Images (n, 3, 32, 32) uint8 and labels (n,) int64."""

    pixels: NDArray[np.uint8]
    labels: Rows


@dataclass(frozen=True, kw_only=True)
class Form:
    """One published form of a data set.

    Attributes:
        title: as its authors call it.
        archive: file name.
        md5: of the archive.
        folder: that the archive holds.
        train: files of the training part, in order.
        test: file of the test part.
        read: given a file's content and name, returns its images.
        names: file with the class names, or None where the task knows them.
        read_names: given that file's content and name, returns the class names.
        file_md5: of the files, where published.
    """

    title: str
    archive: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: str
    read: Callable[[bytes, str], Batch]
    names: str | None = None
    read_names: Callable[[bytes, str], tuple[str, ...]] = lambda raw, name: ()
    file_md5: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> tuple[str, ...]:
        """All files that are read."""
        return (*self.train, self.test, *([self.names] if self.names else []))


def _records(label_nbytes: int) -> Callable[[bytes, str], Batch]:
    """Return a reader of records that are ``label_nbytes`` bytes, the last of which is the label, and the pixels."""

    def read(raw: bytes, name: str) -> Batch:
        nbytes = label_nbytes + _PIXELS
        if not raw or len(raw) % nbytes:
            raise DataError(f"{name} has {len(raw)} bytes, not a multiple of a record's {nbytes}", "it is cut off")
        records = np.frombuffer(raw, dtype=np.uint8).reshape(-1, nbytes)
        pixels = records[:, label_nbytes:].reshape(-1, *_SHAPE)
        return Batch(pixels, records[:, label_nbytes - 1].astype(np.int64))

    return read


def _pickled(labels_key: str) -> Callable[[bytes, str], Batch]:
    """Return a reader of dictionaries of ``data`` (n, 3072) and a list of labels."""

    def read(raw: bytes, name: str) -> Batch:
        content = read_pickled(raw, name)
        data, labels = content.get("data"), content.get(labels_key)
        if not isinstance(data, np.ndarray) or data.ndim != 2 or data.shape[1] != _PIXELS:
            raise DataError(f"{name} holds no array 'data' of images of {_PIXELS} bytes")
        if not isinstance(labels, list) or any(type(label) is not int for label in labels):
            raise DataError(f"{name} holds no list {labels_key!r} of whole numbers")
        if len(labels) != len(data):
            raise DataError(f"{name} holds {len(data)} images and {len(labels)} labels")
        return Batch(np.ascontiguousarray(data).reshape(-1, *_SHAPE), np.array(labels, dtype=np.int64))

    return read


def _pickled_names(raw: bytes, name: str) -> tuple[str, ...]:
    names: Any = read_pickled(raw, name).get("fine_label_names")
    if not isinstance(names, list) or any(not isinstance(label, str) for label in names):
        raise DataError(f"{name} holds no list 'fine_label_names'")
    return tuple(names)


def _text_names(raw: bytes, name: str) -> tuple[str, ...]:
    try:
        return tuple(raw.decode("ascii").split())
    except UnicodeDecodeError as error:
        raise DataError(f"{name} is no list of class names: {error}") from error


CIFAR10_FORMS: Final = (
    Form(
        title="binary version",
        archive="cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test="test_batch.bin",
        read=_records(1),
    ),
    Form(
        title="python version",
        archive="cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test="test_batch",
        read=_pickled("labels"),
        file_md5={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
            "test_batch": "40351d587109b95175f43aff81a1287e",
        },
    ),
)

CIFAR100_FORMS: Final = (
    Form(
        title="binary version",
        archive="cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        folder="cifar-100-binary",
        train=("train.bin",),
        test="test.bin",
        read=_records(2),
        names="fine_label_names.txt",
        read_names=_text_names,
    ),
    Form(
        title="python version",
        archive="cifar-100-python.tar.gz",
        md5="eb9058c3a382ffc7106e4002c42a8d85",
        folder="cifar-100-python",
        train=("train",),
        test="test",
        read=_pickled("fine_labels"),
        names="meta",
        read_names=_pickled_names,
        file_md5={
            "train": "16019d7e3df5f24257cddd939b257f8d",
            "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
            "meta": "7973b15100ade9c7d40fb424638fde48",
        },
    ),
)
