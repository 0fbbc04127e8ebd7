from __future__ import annotations

import pytest
import torch
from torch import nn

from qcore.nn import build_model


def build(**options: object) -> nn.Module:
    return build_model("hetero_diffq/resnet20", {"width": 2, **options}, torch.Generator().manual_seed(0)).eval()


def pixels() -> torch.Tensor:
    return torch.randint(0, 256, (4, 3, 8, 8), generator=torch.Generator().manual_seed(1)).float()


@pytest.mark.parametrize(
    ("preprocessing", "mean", "std"),
    [
        ("inception", (127.0,) * 3, (128.0,) * 3),
        ("symmetric", (127.5,) * 3, (127.5,) * 3),
        ("torchvision", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    ],
)
def test_pixels_are_scaled_as_the_option_says(preprocessing: str, mean: object, std: object) -> None:
    x = pixels()
    expected = (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    model = build(preprocessing=preprocessing)
    model.fit_scalers(x, torch.zeros(4))
    assert torch.allclose(model.scaler(x), expected, atol=1e-5)


def test_without_preprocessing_they_stay() -> None:
    model = build(preprocessing="none")
    model.fit_scalers(pixels(), torch.zeros(4))
    assert torch.equal(model.scaler(pixels()), pixels())


def test_statistics_of_the_training_part_can_be_taken() -> None:
    model = build(preprocessing="fit")
    model.fit_scalers(pixels().to(torch.uint8), torch.zeros(4))
    scaled = model.scaler(pixels())
    assert torch.allclose(scaled.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(scaled.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)
