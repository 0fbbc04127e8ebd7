"""Random crops and mirror images of a batch, without a loop over its samples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["crop_and_flip"]


def crop_and_flip(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Return a random window of each image with a black border, mirrored with a chance of one half.

    Crop and flip are as in K. He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, section 4.2: there
    4 pixels of zeros on each side of a 32 x 32 image.

    Args:
        images: (n, channels, height, width) of any dtype, black being 0; not changed.
        padding: border on each side; the window moves by up to this many pixels each way. 0 for no crop.
        flip: whether images may be mirrored left to right.
        generator: on the CPU; the only source of randomness. Draws nothing if there is nothing to do.

    Returns:
        A tensor of the shape, dtype and device of ``images``.
    """
    if not padding and not flip:
        return images
    count, channels, height, width = images.shape
    padded = functional.pad(images, (padding, padding, padding, padding))
    rows, columns = _windows(count, height, width, padding, flip, generator)
    flat = (rows[:, :, None] * padded.shape[3] + columns[:, None, :]).view(count, 1, height * width)
    index = flat.to(images.device).expand(count, channels, height * width)
    return padded.view(count, channels, padded.shape[2] * padded.shape[3]).gather(2, index).view(images.shape)


def _windows(
    count: int, height: int, width: int, padding: int, flip: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the rows (count, height) and columns (count, width) of the padded images that the windows show."""
    down, right = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator)
    rows, columns = torch.arange(height) + down, torch.arange(width).expand(count, width)
    if flip:
        mirrored = torch.rand((count, 1), generator=generator) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    return rows, columns + right
