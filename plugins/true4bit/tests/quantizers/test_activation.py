from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import qcore
from qcore.errors import CalibrationError
from qcore.nn import QuantLinear
from qcore_true4bit.quantizers.activation import ActivationQuantizer


def quantizer(alpha: float | None = 2.0, **options: object) -> ActivationQuantizer:
    made: ActivationQuantizer = qcore.get("quantizer", "true4bit/activation", **options)
    if alpha is not None:
        with torch.no_grad():
            made.alpha.fill_(alpha)
    return made


def inputs(seed: int = 0) -> Tensor:
    return 3 * torch.randn(6, 40, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [4, 8])
def test_the_values_are_rounded_between_zero_and_alpha(bits: int) -> None:
    n = 2**bits - 1
    x = inputs()
    expected = torch.round(x.clamp(0, 2) * n / 2) * 2 / n
    assert torch.allclose(quantizer(bits=bits)(x), expected, atol=1e-6)
    codes = quantizer(bits=bits).encode(x).codes
    assert codes.min() == 0 and codes.max() == n


def test_the_first_batch_of_training_sets_the_range() -> None:
    q = quantizer(None, bits=4)
    assert q.needs_calibration and q.scheme() is None
    x = inputs()
    q.train()(x)
    positive = x.clamp_min(0)
    assert q.alpha.item() == pytest.approx(float(min(positive.max(), 2 * positive.mean() * math.sqrt(15))))
    before = q.alpha.item()
    q(x * 10)
    assert q.alpha.item() == before


def test_without_a_range_evaluation_says_what_to_do() -> None:
    with pytest.raises(CalibrationError, match=r"tensor has a range that was never set"):
        quantizer(None).eval()(inputs())


@pytest.mark.parametrize("gradient", ["pact", "lsq"])
def test_values_in_the_range_get_the_gradient_and_those_outside_none(gradient: str) -> None:
    x = inputs().requires_grad_()
    upstream = torch.randn_like(x)
    (quantizer(gradient=gradient)(x) * upstream).sum().backward()
    inside = (x >= 0) & (x <= 2)
    if gradient == "pact":
        assert torch.equal(x.grad, upstream * inside)
    assert torch.equal(x.grad[inside & (x > 0) & (x < 2)], upstream[inside & (x > 0) & (x < 2)])
    assert not x.grad[~inside].any()


def test_pact_moves_the_range_by_what_lies_above_it() -> None:
    x, q = inputs(), quantizer(gradient="pact")
    upstream = torch.randn_like(x)
    (q(x) * upstream).sum().backward()
    assert float(q.alpha.grad) == pytest.approx(float(upstream[x > 2].sum()), rel=1e-5)


def test_lsq_moves_the_range_by_roundings_too() -> None:
    x, q = inputs(), quantizer(gradient="lsq", bits=4)
    upstream = torch.randn_like(x)
    (q(x) * upstream).sum().backward()
    v = x * 15 / 2
    inside = (v > 0) & (v < 15)
    terms = torch.where(inside, v.round() - v, v.clamp(0, 15))
    expected = float((upstream * terms).sum()) / 15 / math.sqrt(40 * 15)
    assert float(q.alpha.grad) == pytest.approx(expected, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_layer_that_it_serves_runs_packed_bit_for_bit(bits: int) -> None:
    layer = QuantLinear(nn.Linear(40, 7), qcore.get("quantizer", "true4bit/tanh"), quantizer(bits=bits))
    model = nn.Sequential(layer).eval()
    assert torch.equal(qcore.pack(model)(inputs()), model(inputs()))


def test_under_autocast_it_works_in_float32() -> None:
    x = inputs().to(torch.bfloat16).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = quantizer()(x)
    assert torch.equal(y, quantizer()(x.detach().float()))
    y.sum().backward()
    assert x.grad.dtype == torch.bfloat16
