"""A task that fits in a few lines, for checks on methods."""

from __future__ import annotations

import torch

from qcore.tasks import Task, TaskData
from qcore.testing.inputs import generator

__all__ = ["TinyTask"]


class TinyTask(Task):
    """60 samples, 8 features or images of 8 x 8 bytes, 3 classes or numbers.

    Args:
        regression: whether the target is a number.
        images: whether the inputs are uint8 (60, 1, 8, 8).
        outputs: numbers a sample, in a regression; their spreads differ by far.
    """

    def __init__(self, regression: bool = False, images: bool = False, outputs: int = 1) -> None:
        super().__init__()
        self.regression, self.images, self.outputs = regression, images, outputs

    def load(self) -> TaskData:
        """Return seeded samples whose first feature tells the target."""
        drawn = torch.randn(60, 8, generator=generator(1))
        classes = torch.bucketize(drawn[:, 0].contiguous(), torch.tensor([-0.4, 0.4]))
        pixels = (drawn * 40 + 128).clamp(0, 255).to(torch.uint8).reshape(60, 1, 1, 8).repeat(1, 1, 8, 1)
        numbers = drawn[:, :1] * 3 * 10.0 ** torch.arange(self.outputs)
        return TaskData(
            inputs=pixels if self.images else drawn,
            targets=numbers.squeeze(1) if self.regression else classes,
            feature_names=() if self.images else tuple(f"f{i}" for i in range(8)),
            class_names=() if self.regression else ("low", "middle", "high"),
            target_names=tuple(f"y{i}" for i in range(self.outputs)) if self.regression and self.outputs > 1 else (),
            source="drawn for a check",
        )
