from __future__ import annotations

import pytest
import torch
from torch import nn

from qcore.errors import ConfigError, QuantizationError
from qcore.nn.init import conv2d, linear
from qcore_true4bit.resident import ResidentConfig, ResidentConv2d, ResidentLinear, harden, make_resident


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Sequential:
    generator = seeded(3)
    body = [conv2d(1, 4, 3, generator, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*body, linear(4 * 16, 3, generator, bias=False))


def test_every_layer_is_replaced_and_the_model_left_alone() -> None:
    model = network()
    made = make_resident(model, ResidentConfig(), seeded())
    assert isinstance(made[0], ResidentConv2d) and isinstance(made[4], ResidentLinear)
    assert made[0].tensor_name == "0.weight"
    assert type(model[0]) is nn.Conv2d
    assert make_resident(model, ResidentConfig(), seeded(), inplace=True) is model
    assert isinstance(make_resident(nn.Linear(3, 2), ResidentConfig(), seeded()), ResidentLinear)


@pytest.mark.parametrize("start", ["nearest", "stochastic"])
@pytest.mark.parametrize("scale", ["mse", "mean"])
def test_the_first_weights_are_near_the_float_ones(scale: str, start: str) -> None:
    model = network()
    config = ResidentConfig.model_validate({"scale": scale, "start": start})
    layer = make_resident(model, config, seeded())[4]
    error = (layer.weight_values() - model[4].weight).square().mean().sqrt()
    assert error < 0.35 * model[4].weight.square().mean().sqrt()


def test_hardened_weights_give_their_codes_back_exactly() -> None:
    for seed in range(20):
        layer = ResidentLinear(linear(33, 17, seeded(seed)), ResidentConfig(), seeded())
        nn.init.normal_(layer.log_gain, std=2.0, generator=seeded(seed))
        codes = layer.integer_codes()
        hardened = harden(layer)
        scale = hardened.scales[""].unsqueeze(1)
        assert torch.equal((hardened.model.weight / scale).round(), codes)
        assert torch.equal(hardened.model.weight, codes * scale)


def test_hardened_outputs_are_equal_and_training_is_ordinary() -> None:
    model = make_resident(network(), ResidentConfig(residual=True), seeded())
    x = torch.randn(6, 1, 4, 4, generator=seeded(1))
    model(x).square().sum().backward()
    model.eval()
    hardened = harden(model).model
    assert type(hardened[0]) is nn.Conv2d and type(hardened[4]) is nn.Linear
    assert isinstance(model[0], ResidentConv2d)
    assert torch.equal(hardened(x), model(x))
    assert hardened[0].weight.requires_grad and not hardened.training
    assert hardened[0].weight.is_contiguous() and hardened[0].weight.untyped_storage().nbytes() == 4 * 4 * 9


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 1, "groups": 2, "bias": False},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": "same", "dilation": 2},
    ],
)
def test_convolutions_of_every_kind_harden(options: dict[str, object]) -> None:
    layer = nn.Conv2d(4, 6, 3, **options)  # type: ignore[arg-type]
    made = make_resident(layer, ResidentConfig(), seeded()).eval()
    x = torch.randn(2, 4, 7, 7, generator=seeded(1))
    assert torch.equal(harden(made).model(x), made(x))


def test_what_cannot_be_resident_is_refused() -> None:
    shared = nn.Linear(3, 3)
    with pytest.raises(ConfigError, match="several places"):
        make_resident(nn.Sequential(shared, shared), ResidentConfig(), seeded())
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    with pytest.raises(ConfigError, match="untie"):
        make_resident(tied, ResidentConfig(), seeded())
    with pytest.raises(ConfigError, match="no float"):
        make_resident(nn.ReLU(), ResidentConfig(), seeded())
    shared.weight.data[0, 0] = torch.nan
    with pytest.raises(QuantizationError, match="weight"):
        make_resident(shared, ResidentConfig(), seeded())
