from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from qcore.errors import ConfigError, UsageError
from qcore.nn import build_model, set_generator


def build(name: str = "vgg4bit", **options: object) -> nn.Module:
    return build_model(f"true4bit/{name}", options, torch.Generator().manual_seed(0))


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def quantized_weights(model: nn.Module) -> int:
    return sum(m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear))


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [("vgg4bit", 10, 3_251_018), ("vgg4bit", 100, 3_297_188), ("simple_resnet4bit", 10, 73_178)],
)
def test_the_number_of_parameters_is_the_paper_s(name: str, classes: int, parameters: int) -> None:
    assert count(build(name, out_features=classes)) == parameters


@pytest.mark.parametrize(("classes", "weights"), [(10, 3_246_784), (100, 3_292_864)])
def test_the_number_of_quantized_weights_is_the_paper_s(classes: int, weights: int) -> None:
    assert quantized_weights(build(out_features=classes)) == weights


@pytest.mark.parametrize("name", ["vgg4bit", "simple_resnet4bit"])
@pytest.mark.parametrize("size", [8, 28, 33])
def test_images_of_any_size_from_eight_on_give_logits(name: str, size: int) -> None:
    model = build(name, in_channels=1, image_size=size, width=4, out_features=3)
    set_generator(model, torch.Generator().manual_seed(0))
    assert model(torch.rand(5, 1, size, size) * 255).shape == (5, 3)


def test_rows_of_pixels_are_images() -> None:
    flat, images = (build(in_channels=1, image_size=8, width=4, flat=flat).eval() for flat in (True, False))
    x = torch.rand(3, 64)
    assert torch.equal(flat(x), images(x.view(3, 1, 8, 8)))


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 3, 16, 16), (2, 3072), (3, 32, 32)])
def test_other_images_than_those_it_was_built_for_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"images \(n, 3, 32, 32\)"):
        build(width=4)(torch.rand(shape))


def test_weights_are_drawn_as_in_the_paper_s_code() -> None:
    model = build()
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels > 3:
            assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(2 / (9 * layer.in_channels)), rel=0.03)
        if isinstance(layer, nn.Linear):
            assert float(layer.weight.detach().std()) == pytest.approx(math.sqrt(1 / layer.in_features), rel=0.05)
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert not layer.bias.any()


def test_statistics_of_the_config_count_and_those_of_the_data_do_not() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.1, 0.3)
    model = build(mean=mean, std=std, width=4)
    images = torch.randint(0, 256, (9, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    model.fit_scalers(images, torch.zeros(9))
    expected = (images.float() / 255 - _channels(mean)) / _channels(std)
    assert torch.allclose(model.scaled(images.float()), expected, atol=1e-5)


def test_without_statistics_the_training_part_gives_them() -> None:
    model = build(width=4)
    images = torch.randint(0, 256, (9, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    model.fit_scalers(images, torch.zeros(9))
    scaled = model.scaled(images.float())
    assert torch.allclose(scaled.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert scaled.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "bad", [{"mean": (0.5,) * 3}, {"mean": (0.5,), "std": (0.2,)}, {"mean": (0,) * 3, "std": (0,) * 3}]
)
def test_statistics_that_do_not_fit_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"mean|std"):
        build(**bad)


def _channels(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(1, 3, 1, 1)
