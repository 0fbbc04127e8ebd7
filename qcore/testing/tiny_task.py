"""A task that fits in a few lines, for checks on methods."""

from __future__ import annotations

import torch

from qcore.tasks import Task, TaskData
from qcore.testing.inputs import generator

__all__ = ["TinyTask"]


class TinyTask(Task):
    """60 samples, 8 features, 3 classes or a number.

    Args:
        regression: whether the target is a number.
    """

    def __init__(self, regression: bool = False) -> None:
        super().__init__()
        self.regression = regression

    def load(self) -> TaskData:
        """Return seeded samples whose first feature tells the target."""
        inputs = torch.randn(60, 8, generator=generator(1))
        classes = torch.bucketize(inputs[:, 0].contiguous(), torch.tensor([-0.4, 0.4]))
        return TaskData(
            inputs=inputs,
            targets=inputs[:, 0] * 3 if self.regression else classes,
            feature_names=tuple(f"f{i}" for i in range(8)),
            class_names=() if self.regression else ("low", "middle", "high"),
            source="drawn for a check",
        )
