"""Random resized crops and mirror images of a batch, without a loop over its samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["random_resized_crop"]

_RATIO = 4 / 3
"""The largest width of a rectangle for its height, before resizing, and the other way round."""


def random_resized_crop(
    images: Tensor, area: tuple[float, float], generator: torch.Generator, *, flip: bool = True
) -> Tensor:
    """Return of each image a random rectangle, resized bilinearly to the image's size; mirrored with a chance of 1/2.

    The share of the image is drawn from U(area), the logarithm of width / height from U(-log 4/3, log 4/3), and the
    place evenly; sides that would be longer than the image's are cut to those. Source: Szegedy et al. 2015,
    arXiv:1409.4842, section 6.

    Args:
        images: (n, channels, height, width) of any dtype; not changed.
        area: least and largest share.
        generator: on the CPU; the only source of randomness.
        flip: whether images may be mirrored left to right.

    Returns:
        A tensor of the shape, dtype and device of ``images``; whole numbers are rounded half to even.
    """
    grid = F.affine_grid(_windows(len(images), area, generator, flip=flip), [len(images), 1, *images.shape[2:]], False)
    floats = images if images.is_floating_point() else images.to(torch.float32)
    grid = grid.to(floats.device, floats.dtype)
    cut = F.grid_sample(floats, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return cut if images.is_floating_point() else cut.round().to(images.dtype)


def _windows(count: int, area: tuple[float, float], generator: torch.Generator, *, flip: bool) -> Tensor:
    """Return (count, 2, 3): how the axes -1..1 of what is shown lie on those of the image."""
    shares, ratios, across, down = torch.rand((4, count), generator=generator)
    share = area[0] + (area[1] - area[0]) * shares
    ratio = torch.exp((2 * ratios - 1) * math.log(_RATIO))
    width, height = (share * ratio).sqrt().clamp(max=1), (share / ratio).sqrt().clamp(max=1)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width, height
    theta[:, 0, 2], theta[:, 1, 2] = (1 - width) * (2 * across - 1), (1 - height) * (2 * down - 1)
    if flip:
        mirrored = torch.rand(count, generator=generator) < 0.5
        theta[:, 0, 0] = torch.where(mirrored, -width, width)
    return theta
