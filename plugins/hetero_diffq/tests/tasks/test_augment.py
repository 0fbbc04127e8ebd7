from __future__ import annotations

import pytest
import torch

from qcore_hetero_diffq.tasks.augment import random_resized_crop


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slopes(count: int) -> torch.Tensor:
    """Images whose first channel grows to the right, and whose second downwards, by one a pixel."""
    axis = torch.arange(64.0)
    return torch.stack([axis.expand(64, 64), axis[:, None].expand(64, 64)]).expand(count, 2, 64, 64)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shape_and_dtype_stay_and_nothing_else_draws(dtype: torch.dtype) -> None:
    images = (torch.rand(5, 3, 20, 12, generator=generator()) * 255).to(dtype)
    before, state = images.clone(), torch.get_rng_state()
    cut = random_resized_crop(images, (0.08, 1.0), generator())
    assert cut.shape == images.shape and cut.dtype == dtype
    assert torch.equal(images, before) and torch.equal(torch.get_rng_state(), state)
    assert torch.equal(random_resized_crop(images, (0.08, 1.0), generator()), cut)
    assert not torch.equal(random_resized_crop(images, (0.08, 1.0), generator(1)), cut)


def test_rectangles_have_the_shares_and_ratios_that_are_asked_for() -> None:
    cut = random_resized_crop(slopes(2000), (0.2, 0.5), generator(), flip=False)
    width = (cut[:, 0, 32, 40] - cut[:, 0, 32, 24]) / 16  # pixels of the image for one that is shown
    height = (cut[:, 1, 40, 32] - cut[:, 1, 24, 32]) / 16
    shares, ratios = width * height, width / height
    assert 0.199 < float(shares.min()) < 0.21 and 0.49 < float(shares.max()) < 0.501
    assert 0.749 < float(ratios.min()) < 0.77 and 1.3 < float(ratios.max()) < 1.334
    assert float(cut.min()) >= 0 and float(cut.max()) <= 63
    left = cut[:, 0, 32].amin(dim=1)
    assert float(left.min()) < 0.5 and float((left + 64 * width).max()) > 63.5


def test_a_rectangle_that_is_longer_than_the_image_is_cut_to_it() -> None:
    cut = random_resized_crop(slopes(200), (1.0, 1.0), generator(), flip=False)
    width, height = cut[:, 0, 32, 63] - cut[:, 0, 32, 0], cut[:, 1, 63, 32] - cut[:, 1, 0, 32]
    assert torch.allclose(torch.maximum(width, height), torch.full((200,), 63.0), atol=1e-3)
    assert 54 < float(torch.minimum(width, height).min()) < 56, "the other side is sqrt(3 / 4) of the image's"


def test_half_of_the_images_are_mirrored() -> None:
    cut = random_resized_crop(slopes(1000), (0.5, 1.0), generator())
    mirrored = cut[:, 0, 32, 0] > cut[:, 0, 32, -1]
    assert 0.45 < float(mirrored.float().mean()) < 0.55
    assert bool((cut[:, 1, 0, 32] < cut[:, 1, -1, 32]).all())
