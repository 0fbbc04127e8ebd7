"""The training and test part of an image set, and how a few samples are chosen from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcore.errors import DataError, UsageError
from qcore.tasks.base import TaskData

__all__ = ["Part", "Rows", "assemble", "from_arrays"]

Rows = NDArray[np.int64]

_SEED = 0
"""Of the draw of ``limit`` samples: the same samples for every run, fold and seed."""


@dataclass(frozen=True, eq=False)
class Part:
    """Labelled images, decoded only where they are used.

    Attributes:
        labels: (n,) int64 class indices.
        pixels: given (m,) rows, returns (m, channels, height, width) uint8.
    """

    labels: Rows
    pixels: Callable[[Rows], Tensor]

    def __len__(self) -> int:
        return len(self.labels)


def from_arrays(pixels: NDArray[np.uint8], labels: Rows) -> Part:
    """Return a part of (n, channels, height, width) pixels that are in memory already."""
    return Part(labels, lambda rows: torch.from_numpy(pixels if len(rows) == len(pixels) else pixels[rows]))


def assemble(
    train: Part, test: Part | None, class_names: tuple[str, ...], source: str, limit: int | None = None
) -> TaskData:
    """Return the data of a task: uint8 inputs, and one fold that is tested on ``test``.

    Args:
        train: samples to learn from.
        test: samples to report on; without them the data have no fold of their own.
        class_names: one a class.
        source: where the data come from.
        limit: at most so many samples of each part, as evenly of the classes as they allow.

    Raises:
        DataError: an empty part, or a label beyond the class names.
        UsageError: ``limit`` is smaller than the number of classes.
    """
    if limit is not None and limit < len(class_names):
        raise UsageError(f"limit={limit} cannot hold a sample of each of {len(class_names)} classes", "raise the limit")
    parts = [train] if test is None else [train, test]
    for part in parts:
        _check(part, len(class_names), source)
    chosen = [_balanced(part.labels, limit) for part in parts]
    return TaskData(
        inputs=_joined([part.pixels(rows) for part, rows in zip(parts, chosen, strict=True)]),
        targets=torch.from_numpy(np.concatenate([p.labels[rows] for p, rows in zip(parts, chosen, strict=True)])),
        folds=None if test is None else torch.repeat_interleave(torch.tensor([-1, 0]), torch.tensor(_sizes(chosen))),
        class_names=class_names,
        source=source if limit is None else f"{source}; at most {limit} samples of each part",
    )


def _check(part: Part, classes: int, source: str) -> None:
    if len(part) == 0:
        raise DataError(f"{source}: a part holds no images")
    low, high = int(part.labels.min()), int(part.labels.max())
    if low < 0 or high >= classes:
        raise DataError(f"{source}: labels run from {low} to {high}, but there are {classes} classes")


def _balanced(labels: Rows, limit: int | None) -> Rows:
    """Return the sorted rows of at most ``limit`` samples, a class at a time in turn until none is left."""
    rows = np.arange(len(labels))
    if limit is None or limit >= len(rows):
        return rows
    order = np.random.default_rng(_SEED).permutation(rows)
    by_class = order[np.argsort(labels[order], kind="stable")]
    counts = np.bincount(labels)
    turn = rows - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(by_class[np.argsort(turn, kind="stable")[:limit]])


def _joined(pixels: list[Tensor]) -> Tensor:
    return pixels[0].contiguous() if len(pixels) == 1 else torch.cat(pixels)


def _sizes(chosen: list[Rows]) -> list[int]:
    return [len(rows) for rows in chosen]
