"""The tensors of one fold, and the order in which an epoch visits them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from qcore.tasks.base import TaskData
    from qcore.tasks.splits import Fold

__all__ = ["FoldTensors", "as_floats", "batches", "steps_per_epoch"]


@dataclass(frozen=True)
class FoldTensors:
    """Inputs (rows, ...) and targets (rows,) of a fold's training and validation parts; the test part is not here.

    Targets of several outputs are (rows, outputs). Inputs are as the task stores them: float32, or uint8 images, which
    :func:`as_floats` makes a network's input.
    """

    train_inputs: Tensor
    train_targets: Tensor
    validation_inputs: Tensor
    validation_targets: Tensor

    @classmethod
    def of(cls, data: TaskData, fold: Fold) -> FoldTensors:
        """Return the parts of ``fold``."""
        train, validation = fold.train, fold.validation
        return cls(data.inputs[train], data.targets[train], data.inputs[validation], data.targets[validation])

    def to(self, device: torch.device) -> FoldTensors:
        """Return the same tensors on ``device``."""
        return FoldTensors(
            self.train_inputs.to(device),
            self.train_targets.to(device),
            self.validation_inputs.to(device),
            self.validation_targets.to(device),
        )


def as_floats(inputs: Tensor) -> Tensor:
    """Return ``inputs`` as networks take them: float32 of the same values; what is float already is returned itself."""
    return inputs if inputs.is_floating_point() else inputs.to(torch.float32)


def steps_per_epoch(rows: int, batch_size: int, world_size: int = 1) -> int:
    """Return the number of batches that ``rows`` make, each of at most ``batch_size`` rows for all ranks together."""
    share = -(-rows // world_size)
    return max(1, -(-share // max(1, batch_size // world_size)))


def batches(
    data: FoldTensors, batch_size: int, order: torch.Generator, *, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this rank's batches of one epoch in a fresh random order.

    The permutation is the same on all ranks. Batches are of nearly equal size, so that none holds a single row by
    accident; where the rows do not divide among the ranks, the first ones serve twice.
    """
    rows = len(data.train_inputs)
    permutation = torch.randperm(rows, generator=order)
    surplus = -rows % world_size
    mine = torch.cat([permutation, permutation[:surplus]])[rank::world_size]
    for index in mine.tensor_split(steps_per_epoch(rows, batch_size, world_size)):
        here = index.to(data.train_inputs.device)
        yield data.train_inputs[here], data.train_targets[here]
