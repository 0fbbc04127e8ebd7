from __future__ import annotations

import torch

import qcore
from qcore_true4bit.quantizers.dorefa import DoReFaQuantizer


def quantizer(bits: int = 4) -> DoReFaQuantizer:
    made: DoReFaQuantizer = qcore.get("quantizer", "true4bit/dorefa", bits=bits)
    return made


def test_the_values_are_the_paper_s() -> None:
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    tanh = torch.tanh(weight)
    share = (tanh / tanh.abs().max() + 1) / 2
    expected = 2 * torch.round(share * 15) / 15 - 1
    assert torch.allclose(quantizer()(weight), expected, atol=1e-6)
    assert len(quantizer()(weight).unique()) <= 16


def test_the_gradient_goes_through_the_tanh() -> None:
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    upstream = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    (quantizer()(weight) * upstream).sum().backward()
    tanh = torch.tanh(weight.detach())
    assert torch.allclose(weight.grad, upstream * (1 - tanh**2) / tanh.abs().max())


def test_zeros_and_large_weights_are_finite() -> None:
    assert torch.isfinite(quantizer()(torch.zeros(2, 3))).all()
    assert quantizer()(torch.tensor([[1e30, -1e30]])).tolist() == [[1.0, -1.0]]
