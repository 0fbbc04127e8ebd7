"""What the image tasks share: accuracy first, and random crops and mirror images in training."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from qcore.tasks.base import Task
from qcore_true4bit.tasks.augment import crop_and_flip
from qcore_true4bit.tasks.config import ImageTaskConfig

__all__ = ["ImageTask"]


class ImageTask(Task):
    """Images (n, channels, height, width) uint8 of 0..255, scored by accuracy."""

    Config: ClassVar[type[ImageTaskConfig]] = ImageTaskConfig
    config: ImageTaskConfig

    @property
    @abstractmethod
    def crop(self) -> tuple[int, bool]:
        """Padding of the random crop in pixels, and whether images are mirrored."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of what ``scores`` returns; accuracy is the primary one, as in the paper."""
        return ("accuracy", "f1_weighted", "f1_macro", "nll", "ece")

    def augment(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Return a training batch cropped and mirrored at random, of the same shape and dtype.

        Args:
            inputs: (n, channels, height, width), not changed.
            generator: on the CPU; the only source of randomness.
        """
        if not self.config.augment:
            return inputs
        padding, flip = self.crop
        return crop_and_flip(inputs, padding, flip, generator)
