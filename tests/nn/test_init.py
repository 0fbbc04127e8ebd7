"""Layers initialised from a generator."""

from __future__ import annotations

import math

import torch

from qcore.nn import init


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_linear_layers_have_torchs_default_distribution() -> None:
    layer = init.linear(400, 300, generator())
    bound = 1 / math.sqrt(400)
    assert layer.weight.abs().max() <= bound
    assert layer.weight.std().item() - bound / math.sqrt(3) < 1e-3
    assert layer.bias.abs().max() <= bound
    assert init.linear(4, 3, generator(), bias=False).bias is None


def test_convolutions_have_torchs_default_distribution() -> None:
    layer = init.conv2d(32, 64, 3, generator(), stride=2, padding=1, groups=4)
    bound = 1 / math.sqrt(32 // 4 * 9)
    assert layer.weight.shape == (64, 8, 3, 3)
    assert layer.weight.abs().max() <= bound
    assert layer.weight.std().item() - bound / math.sqrt(3) < 1e-3
    assert (layer.stride, layer.padding, layer.groups) == ((2, 2), (1, 1), 4)


def test_the_same_generator_state_gives_the_same_layer_and_no_global_draw() -> None:
    before = torch.get_rng_state()
    layers = [init.linear(7, 5, generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(layers[0].weight, layers[1].weight)
    assert torch.equal(layers[0].bias, layers[1].bias)
    assert not torch.equal(layers[0].weight, layers[2].weight)
