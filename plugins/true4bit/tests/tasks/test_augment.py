from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from qcore_true4bit.tasks.augment import crop_and_flip


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(count: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    return torch.randint(1, 256, (count, channels, height, width), generator=seeded(seed), dtype=torch.uint8)


def windows(image: Tensor, padding: int, flip: bool) -> dict[bytes, tuple[int, int, bool]]:
    """Return every crop of the padded image, and with ``flip`` its mirror image, by its bytes."""
    _, height, width = image.shape
    padded = functional.pad(image, (padding,) * 4)
    found = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            window = padded[:, top : top + height, left : left + width]
            found[window.contiguous().numpy().tobytes()] = (top, left, False)
            if flip:
                found[window.flip(2).contiguous().numpy().tobytes()] = (top, left, True)
    return found


@given(
    st.integers(1, 4), st.sampled_from([1, 3]), st.integers(2, 7), st.integers(2, 7), st.integers(0, 3), st.booleans()
)
def test_every_result_is_a_window_of_the_padded_image(
    count: int, channels: int, height: int, width: int, padding: int, flip: bool
) -> None:
    images = pixels(count, channels, height, width)
    results = crop_and_flip(images, padding, flip, seeded(3))
    assert results.shape == images.shape and results.dtype == images.dtype
    for image, result in zip(images, results, strict=True):
        assert result.numpy().tobytes() in windows(image, padding, flip)


def test_all_windows_and_both_directions_come_up_about_equally_often() -> None:
    image = pixels(1, 1, 5, 5)
    padding, draws = 1, 1800
    known = windows(image[0], padding, flip=True)
    results = crop_and_flip(image.expand(draws, 1, 5, 5), padding, True, seeded(0))
    counts = {shown: 0 for shown in known.values()}
    for result in results:
        counts[known[result.contiguous().numpy().tobytes()]] += 1
    assert len(counts) == 18
    assert all(60 < count < 140 for count in counts.values()), counts


def test_the_border_is_black() -> None:
    images = torch.full((64, 1, 4, 4), 255, dtype=torch.uint8)
    results = crop_and_flip(images, 4, False, seeded(1))
    assert set(results.unique().tolist()) == {0, 255}


def test_the_generator_alone_decides() -> None:
    images = pixels(16, 3, 8, 8)
    before, state = images.clone(), torch.random.get_rng_state()
    first = crop_and_flip(images, 2, True, seeded(5))
    assert torch.random.get_rng_state().equal(state)
    assert crop_and_flip(images, 2, True, seeded(5)).equal(first)
    assert not crop_and_flip(images, 2, True, seeded(6)).equal(first)
    assert images.equal(before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float16, torch.int64])
def test_the_dtype_is_kept(dtype: torch.dtype) -> None:
    images = pixels(4, 3, 6, 6)
    results = crop_and_flip(images.to(dtype), 2, True, seeded(0))
    assert results.dtype == dtype
    assert results.to(torch.uint8).equal(crop_and_flip(images, 2, True, seeded(0)))


def test_nothing_to_do_draws_nothing() -> None:
    images, generator = pixels(4, 3, 6, 6), seeded(0)
    assert crop_and_flip(images, 0, False, generator) is images
    assert generator.get_state().equal(seeded(0).get_state())


def test_images_that_are_not_contiguous_are_cropped_alike() -> None:
    images = pixels(4, 8, 6, 3).permute(0, 3, 1, 2)
    assert crop_and_flip(images, 2, True, seeded(0)).equal(crop_and_flip(images.contiguous(), 2, True, seeded(0)))
