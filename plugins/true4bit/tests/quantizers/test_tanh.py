from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import qcore
from qcore.errors import QuantizationError
from qcore.nn import QuantConv2d, QuantLinear
from qcore_true4bit.quantizers.tanh import TanhQuantizer


def quantizer(**options: object) -> TanhQuantizer:
    made: TanhQuantizer = qcore.get("quantizer", "true4bit/tanh", **options)
    return made


def weights(seed: int, *shape: int, scale: float = 0.05) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def paper(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Equations 1-4, in float64 but for the scale."""
    scale = (weight.abs().max() / torch.tensor(7.0)).double()
    codes = torch.clamp(torch.round(weight.double() / scale), -7, 7)
    return codes, scale


@pytest.mark.parametrize("shape", [(64, 3, 3, 3), (10, 512), (1, 1), (5,)])
def test_codes_and_scale_are_the_paper_s(shape: tuple[int, ...]) -> None:
    for seed in range(5):
        weight = weights(seed, *shape)
        codes, scale = paper(weight)
        found = quantizer().encode(weight)
        assert torch.equal(found.codes.double(), codes.reshape(found.codes.shape))
        assert float(found.scale) == float(scale)


@given(seed=st.integers(0, 10**6), exponent=st.integers(-20, 20))
def test_fifteen_levels_at_most_and_the_largest_weight_has_the_largest_code(seed: int, exponent: int) -> None:
    weight = weights(seed, 16, 3, 3, 3, scale=2.0**exponent)
    codes = quantizer().encode(weight).codes
    assert len(codes.unique()) <= 15
    assert codes.abs().max() == 7 and codes.min() >= -7
    assert torch.equal(codes, codes.round())


@given(seed=st.integers(0, 10**6))
def test_no_weight_moves_by_more_than_half_a_step(seed: int) -> None:
    weight = weights(seed, 8, 27)
    q = quantizer()
    encoded = q.encode(weight)
    assert torch.equal(q(weight), encoded.codes * encoded.scale)
    assert float((weight.double() - q(weight).double()).abs().max()) <= float(encoded.scale) * (0.5 + 1e-6)


@pytest.mark.parametrize("granularity", ["tensor", "row"])
@given(seed=st.integers(0, 10**6))
def test_quantizing_again_changes_neither_codes_nor_scale(granularity: str, seed: int) -> None:
    q = quantizer(granularity=granularity)
    once = q.encode(weights(seed, 8, 27))
    again = q.encode(once.decode())
    assert torch.equal(again.codes, once.codes)
    assert torch.equal(again.scale, once.scale)


def test_the_scale_survives_seven_times_and_a_seventh_over_a_whole_binade() -> None:
    largest = torch.arange(2**23, 2**24, 7).float()
    scale = largest / torch.tensor(7.0)
    assert torch.equal((scale * 7) / torch.tensor(7.0), scale)


def test_zeros_have_code_zero_and_no_nan() -> None:
    for options in ({}, {"granularity": "row"}, {"scale": "mse"}, {"scale": "learned"}, {"scale": "fixed"}):
        q = quantizer(**options)
        zeros = torch.zeros(4, 5)
        q.initialize(zeros)
        assert torch.equal(q(zeros), zeros)
        assert torch.equal(q.encode(zeros).codes, zeros)


def test_ties_go_to_the_even_code() -> None:
    weight = torch.tensor([[7.0, 0.5, 1.5, 2.5, -0.5, -1.5]])
    assert quantizer().encode(weight).codes.tolist() == [[7, 0, 2, 2, 0, -2]]


@pytest.mark.parametrize("kind", ["conv", "linear"])
def test_the_gradient_is_bit_for_bit_that_of_the_quantized_weight(kind: str) -> None:
    layer = nn.Conv2d(3, 8, 3, padding=1) if kind == "conv" else nn.Linear(12, 8)
    with torch.no_grad():
        layer.weight.copy_(weights(1, *layer.weight.shape))
    x = torch.randn(5, 3, 6, 6) if kind == "conv" else torch.randn(5, 12)
    wrapped = (QuantConv2d if kind == "conv" else QuantLinear)(layer, quantizer(), None).train()
    wrapped(x).square().sum().backward()
    plain = quantizer()(layer.weight.detach()).requires_grad_()
    bias = layer.bias.detach()
    y = F.conv2d(x, plain, bias, padding=1) if kind == "conv" else F.linear(x, plain, bias)
    y.square().sum().backward()
    assert torch.equal(wrapped.weight.grad, plain.grad)


def test_train_and_eval_use_the_codes_alone() -> None:
    layer = QuantConv2d(nn.Conv2d(3, 8, 3), quantizer(), None)
    swapped = nn.Conv2d(3, 8, 3)
    with torch.no_grad():
        swapped.weight.copy_(layer.weight_quantizer.quantize(layer.weight).dequantize())
        swapped.bias.copy_(layer.bias)
    x = torch.randn(2, 3, 9, 9)
    for mode in (True, False):
        assert torch.equal(layer.train(mode)(x), swapped(x))


def test_a_learned_scale_starts_and_moves_as_in_lsq() -> None:
    weight = weights(3, 4, 9).requires_grad_()
    q = quantizer(scale="learned", granularity="row")
    q.initialize(weight)
    assert torch.allclose(q.step, 2 * weight.abs().mean(1) / math.sqrt(7))
    upstream = torch.randn(4, 9)
    (q(weight) * upstream).sum().backward()
    v = weight.detach() / q.step.detach().unsqueeze(1)
    inside = (v > -7) & (v < 7)
    terms = torch.where(inside, v.round() - v, v.clamp(-7, 7))
    assert torch.allclose(q.step.grad, (upstream * terms).sum(1) / math.sqrt(9 * 7), rtol=1e-5, atol=1e-7)
    assert torch.equal(weight.grad, upstream * inside)


def test_a_learned_scale_below_zero_counts_by_its_magnitude() -> None:
    weight = weights(3, 4, 9)
    q = quantizer(scale="learned")
    q.initialize(weight)
    before = q(weight)
    with torch.no_grad():
        q.step.neg_()
    assert torch.equal(q(weight), before)


def test_a_fixed_scale_stays_that_of_the_first_weights() -> None:
    first = weights(4, 4, 9)
    q = quantizer(scale="fixed")
    q.initialize(first)
    assert torch.equal(q(first), quantizer()(first))
    assert q.encode(first / 100).codes.abs().max() == 0
    assert float(q.encode(first * 10).scale) == float(q.encode(first).scale)


def test_the_least_squared_error_is_not_above_absmax_s() -> None:
    for seed in range(5):
        weight = weights(seed, 64, 64)
        errors = [float((quantizer(scale=scale)(weight) - weight).square().sum()) for scale in ("mse", "absmax")]
        assert errors[0] < errors[1]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("scale", ["absmax", "mse", "learned", "fixed"])
def test_nan_and_infinity_are_refused_by_name(bad: float, scale: str) -> None:
    weight = weights(0, 3, 4)
    q = quantizer(scale=scale)
    q.initialize(weight)
    q.tensor_name = "features.0.weight"
    weight[1, 2] = bad
    for call in (q, q.quantize):
        with pytest.raises(QuantizationError, match=r"features\.0\.weight"):
            call(weight)
