from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qcore
from qcore.errors import UsageError
from qcore.nn import set_generator
from qcore_hetero_diffq.models.parts import PadEnd, StochasticDepth, Style, conv_unit, linear


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_a_unit_is_a_sequence_of_named_parts() -> None:
    plain = conv_unit(8, 16, 3, Style(), generator(), stride=2)
    assert [name for name, _ in plain.named_children()] == ["conv", "norm", "act"] and type(plain) is nn.Sequential
    assert plain.conv.bias is None and plain(torch.zeros(1, 8, 9, 9)).shape == (1, 16, 5, 5)
    bare = conv_unit(8, 16, 3, Style(norm=False, tensorflow=True), generator(), stride=2, active=False)
    assert [name for name, _ in bare.named_children()] == ["pad", "conv"]
    assert not bare.conv.bias.any() and bare(torch.zeros(1, 8, 8, 8)).shape == (1, 16, 4, 4)
    assert conv_unit(8, 16, (1, 3), Style(bias=True), generator()).conv.padding == (0, 1)


@pytest.mark.parametrize(("groups", "fan_out"), [(1, 9 * 64), (64, 9)])
def test_weights_are_drawn_by_the_fan_out(groups: int, fan_out: int) -> None:
    weight = conv_unit(64, 64, 3, Style(), generator(), groups=groups).conv.weight
    assert float(weight.detach().std()) == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)
    head = linear(400, 50, generator())
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.05) and not head.bias.any()


@pytest.mark.parametrize("kernel", [3, 5])
def test_padding_at_the_end_is_tensorflow_s_same(kernel: int) -> None:
    x = torch.randn(2, 4, 8, 6, generator=generator())
    weight = torch.randn(5, 4, kernel, kernel, generator=generator())
    total = kernel - 2  # (ceil(n / 2) - 1) * 2 + kernel - n for even n
    before, after = total // 2, total - total // 2
    expected = F.conv2d(F.pad(x, (before, after, before, after)), weight, stride=2)
    given = F.conv2d(PadEnd(4, kernel)(x), weight, stride=2)
    assert expected.shape == (2, 5, 4, 3) and torch.equal(given, expected)


@pytest.mark.parametrize("kernel", [3, 5])
@torch.no_grad()
def test_a_plan_pads_bit_for_bit(kernel: int) -> None:
    pad = PadEnd(3, kernel).eval()
    x = torch.randn(2, 3, 6, 8, generator=generator())
    assert torch.equal(qcore.compile_plan(pad)(x), pad(x))


def test_maps_of_odd_size_are_refused() -> None:
    with pytest.raises(UsageError, match="7 x 8"):
        PadEnd(3, 3)(torch.zeros(1, 3, 7, 8))


def test_stochastic_depth_drops_whole_samples_and_scales_the_others() -> None:
    layer = StochasticDepth(0.25)
    x = torch.ones(4000, 2, 1, 1)
    first = layer(x)
    kept = first[:, 0, 0, 0] > 0
    assert torch.equal(first[kept], torch.full_like(first[kept], 1 / 0.75)) and not first[~kept].any()
    assert float(kept.float().mean()) == pytest.approx(0.75, abs=0.03)
    set_generator(layer, torch.Generator().manual_seed(3))
    other = layer(x)
    set_generator(layer, torch.Generator().manual_seed(3))
    assert torch.equal(layer(x), other) and not torch.equal(other, first)
    assert layer.eval()(x) is x


def test_stochastic_depth_leaves_the_global_random_state() -> None:
    before = torch.get_rng_state()
    StochasticDepth(0.5)(torch.ones(8, 1, 1, 1))
    assert torch.equal(torch.get_rng_state(), before)
