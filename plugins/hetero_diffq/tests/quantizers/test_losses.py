"""What widths of an input would cost, against a loop in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qcore.quantizers import make_quantizer
from qcore_hetero_diffq.quantizers.losses import ACTIVATION_LEVELS, RATIOS, SAMPLED, width_losses


def by_hand(gradient: Tensor, x: Tensor, range: float, samples: int, level: int, ratio: float, signed: bool) -> float:
    top = 2 ** (level - signed) - 1
    step = range * ratio / top
    codes = (x.double() / step).round().clamp(-top if signed else 0, top)
    return float(((gradient.double() * samples).square() * (codes * step - x.double()).square()).sum() / 2 / samples)


@pytest.mark.parametrize("signed", [False, True])
def test_losses_are_those_of_the_formula(signed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.randn(12, 9, generator=generator), torch.randn(12, 9, generator=generator)
    found = width_losses(gradient, x, torch.tensor([[1.3]]), 12, signed=signed)
    assert found.shape == (len(ACTIVATION_LEVELS), len(RATIOS))
    for i, level in enumerate(ACTIVATION_LEVELS):
        for j, ratio in enumerate(RATIOS):
            assert float(found[i, j]) == pytest.approx(by_hand(gradient, x, 1.3, 12, level, ratio, signed), rel=1e-3)


def test_of_large_inputs_a_part_stands_for_all() -> None:
    x = torch.randn(64, 2 * SAMPLED // 16, generator=torch.Generator().manual_seed(0))
    found = width_losses(torch.ones_like(x), x, torch.tensor([[2.0]]), 64, signed=True)
    assert float(found[1, 0]) == pytest.approx(by_hand(torch.ones_like(x), x, 2.0, 64, 3, 1.0, True), rel=0.1)


@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_nothing_costs_nothing(shape: tuple[int, int]) -> None:
    assert not width_losses(torch.zeros(shape), torch.zeros(shape), torch.ones(1, 1), shape[0], signed=True).any()


def test_the_quantizer_keeps_their_running_mean() -> None:
    quantizer = make_quantizer("hetero_diffq/activation")
    x = torch.rand(8, 5, generator=torch.Generator().manual_seed(3))
    quantizer.initialize(x)
    upstream = torch.full((8, 5), 0.125)
    quantizer.train()(x.clone().requires_grad_()).backward(upstream)
    assert not quantizer.losses.any()
    quantizer.watching = True
    for _ in range(4):
        quantizer(x.clone().requires_grad_()).backward(upstream)
    expected = width_losses(upstream, x, quantizer.ranges().detach(), 8, signed=False)
    torch.testing.assert_close(quantizer.losses / quantizer.seen, expected)
    assert float(quantizer.seen) == pytest.approx(1 - 0.9**4)


@pytest.mark.parametrize("shape", [(128, 16, 32, 32), (32, 32, 56, 56), (1024, 256)])
def test_every_column_of_a_large_input_is_seen(shape: tuple[int, ...]) -> None:
    gradient = torch.zeros(shape)
    for column in (0, 1, shape[-1] // 2, shape[-1] - 1):
        gradient.zero_()[..., column] = 1.0
        found = width_losses(gradient, torch.full(shape, 0.3), torch.ones(1, 1), shape[0], signed=False)
        assert float(found[0, 0]) > 0, column
