"""The built-in networks, and how a network is built again."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import qcore
from qcore.errors import ConfigError, UnknownNameError
from qcore.nn import MLP, Dropout, Standardize, architecture_of, build_model

MLP_CONFIG: dict[str, Any] = {"in_features": 6, "out_features": 3, "hidden": (8, 4)}
CNN_CONFIG: dict[str, Any] = {"in_channels": 2, "out_features": 3, "image_size": 8, "width": 4, "blocks": 2}
NETWORKS = [("core/mlp", MLP_CONFIG, (5, 6)), ("core/cnn", CNN_CONFIG, (5, 2, 8, 8))]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("name", "config", "shape"), NETWORKS)
def test_the_same_seed_builds_the_same_network_and_touches_no_global_state(
    name: str, config: dict[str, Any], shape: tuple[int, ...]
) -> None:
    before = torch.get_rng_state()
    models = [build_model(name, config, torch.Generator().manual_seed(seed)).eval() for seed in (1, 1, 2)]
    outputs = [model(normal(*shape)) for model in models]
    assert torch.equal(torch.get_rng_state(), before)
    assert outputs[0].shape == (5, 3)
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


@pytest.mark.parametrize(("name", "config", "shape"), NETWORKS)
def test_a_network_knows_how_it_was_built_and_so_do_its_copies(
    name: str, config: dict[str, Any], shape: tuple[int, ...]
) -> None:
    model = build_model(name, config)
    architecture = architecture_of(copy.deepcopy(model))
    assert architecture is not None
    assert architecture.model == name
    again = build_model(architecture.model, architecture.config)
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(normal(*shape)), model.eval()(normal(*shape)))


def test_a_network_of_ones_own_has_no_architecture() -> None:
    assert architecture_of(nn.Linear(2, 2)) is None


def test_get_makes_the_same_as_build_model() -> None:
    one, other = qcore.get("model", "core/mlp", **MLP_CONFIG), build_model("core/mlp", MLP_CONFIG)
    assert architecture_of(one) == architecture_of(other)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_wrong_name_or_option_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="core/mlp"):
        build_model("core/mpl", MLP_CONFIG)
    with pytest.raises(ConfigError, match="hidden"):
        build_model("core/mlp", MLP_CONFIG | {"hiden": (3,)})
    with pytest.raises(ConfigError, match="image_size"):
        build_model("core/cnn", CNN_CONFIG | {"image_size": 2})


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        ({}, [nn.Identity, nn.LayerNorm], [nn.LayerNorm, nn.LayerNorm]),
        ({"input_norm": True}, [nn.LayerNorm, nn.LayerNorm], [nn.LayerNorm, nn.LayerNorm]),
        ({"pre_norm": False}, [nn.Identity, nn.LayerNorm], [nn.Identity, nn.LayerNorm]),
        ({"post_norm": False}, [nn.Identity, nn.Identity], [nn.LayerNorm, nn.Identity]),
    ],
)
def test_norms_stand_where_the_config_puts_them(
    options: dict[str, Any], first: list[type[nn.Module]], second: list[type[nn.Module]]
) -> None:
    model = build_model("core/mlp", MLP_CONFIG | options)
    assert isinstance(model, MLP)
    assert isinstance(model.scaler, Standardize)
    for block, (before, after) in zip(model.blocks, (first, second), strict=True):
        assert [type(part) for part in block.children()] == [before, nn.Linear, after, nn.ReLU, Dropout]


def test_no_hidden_layer_leaves_a_linear_model() -> None:
    model = build_model("core/mlp", {"in_features": 6, "out_features": 3, "hidden": (), "standardize": False}).eval()
    assert isinstance(model, MLP)
    assert torch.equal(model(normal(5, 6)), model.head(normal(5, 6)))


@pytest.mark.parametrize(("name", "config", "shape"), NETWORKS)
def test_scalers_take_raw_data_to_raw_units(name: str, config: dict[str, Any], shape: tuple[int, ...]) -> None:
    model: Any = build_model(name, config | {"rescale": True, "dropout": 0.0}).eval()
    x, targets = normal(40, *shape[1:]) * 50 + 1000, normal(40) * 7 - 300
    model.fit_scalers(x, targets)
    scaled = model.scaler(x)
    assert scaled.mean().abs() < 1e-3
    assert scaled.std() == pytest.approx(1, abs=0.02)
    assert model(x).mean().item() == pytest.approx(-300, abs=20)


@pytest.mark.parametrize(("name", "config", "shape"), NETWORKS)
def test_each_of_several_outputs_returns_its_own_units(
    name: str, config: dict[str, Any], shape: tuple[int, ...]
) -> None:
    model: Any = build_model(name, config | {"rescale": True}).eval()
    targets = normal(40, 3) * torch.tensor([7.0, 0.1, 1.0]) + torch.tensor([-300.0, 0.0, 5.0])
    model.fit_scalers(normal(40, *shape[1:]), targets)
    assert torch.allclose(model.rescale.mean, targets.mean(dim=0), atol=1e-4)
    model.head.weight.data.zero_()
    model.head.bias.data.zero_()
    assert torch.equal(model(normal(*shape)), model.rescale.mean.expand(5, 3))
    alone = build_model(name, config | {"rescale": True, "out_features": 1})
    assert alone.rescale.mean.shape == ()  # type: ignore[union-attr]


def test_an_image_of_odd_size_is_halved_often_enough() -> None:
    model = build_model("core/cnn", CNN_CONFIG | {"image_size": 9, "blocks": 5})
    assert model.eval()(normal(2, 2, 9, 9)).shape == (2, 3)


def test_dropout_makes_training_passes_differ_and_eval_passes_equal() -> None:
    model = build_model("core/mlp", MLP_CONFIG | {"dropout": 0.5})
    x = normal(5, 6)
    assert not torch.equal(model.train()(x), model(x))
    assert torch.equal(model.eval()(x), model(x))
