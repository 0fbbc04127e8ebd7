"""The weights and activations by fused kernels: bit for bit what ``encode`` says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from qcore.backends.training import ChosenKernels
from qcore.errors import QuantizationError
from qcore.quantizers import make_quantizer
from qcore.testing.inputs import activations, same_bits, weights
from qcore.testing.training_problems import TorchTrainingKernels

WEIGHTS = [
    f"bitnet/{kind}({options})"
    for kind in ("ternary", "binary")
    for options in ("", "granularity='row'", "granularity='group', group_size=4", "granularity='group', group_size=5")
]


class Given(ChosenKernels):
    """Serves the formulas, and counts which of them are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def serve(self, x: Tensor) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(TorchTrainingKernels(), name)


class Refused(ChosenKernels):
    def serve(self, x: Tensor) -> None:
        return None


@pytest.mark.parametrize("reference", [*WEIGHTS, "bitnet/ternary(mask=True)", "bitnet/absmax"])
def test_values_and_gradients_are_those_of_torch(reference: str) -> None:
    for name, x in (weights if reference in WEIGHTS else activations)(torch.float32):
        if not x.numel():
            continue
        results = []
        for kernels in (Given(), Refused()):
            quantizer = make_quantizer(reference)
            quantizer.kernels = kernels
            leaf = x.clone().requires_grad_()
            y = quantizer(leaf)
            y.backward(torch.linspace(-1, 1, x.numel()).reshape(x.shape))
            results.append((y.detach(), leaf.grad))
            assert same_bits(y.detach(), quantizer.encode(x).decode()), name
        assert all(same_bits(a, b) for a, b in zip(*results, strict=True)), name  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reference", "calls"),
    [
        ("bitnet/ternary", ["slice_sums", "round_to_grid"]),
        ("bitnet/binary", ["slice_sums", "round_to_sign", "slice_sums"]),
        ("bitnet/absmax", ["round_over_range"]),
        ("bitnet/ternary(granularity='group', group_size=4)", ["slice_sums", "round_to_grid"]),
        ("bitnet/ternary(granularity='group', group_size=5)", []),
    ],
)
def test_each_asks_for_what_it_needs(reference: str, calls: list[str]) -> None:
    quantizer, given = make_quantizer(reference), Given()
    quantizer.kernels = given
    quantizer(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    assert given.calls == calls


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("reference", [*WEIGHTS, "bitnet/absmax"])
def test_nan_and_infinity_are_refused_and_the_tensor_named(reference: str, bad: float) -> None:
    quantizer = make_quantizer(reference)
    quantizer.kernels, quantizer.tensor_name = Given(), "head.weight"
    x = torch.ones(3, 8)
    x[1, 7] = bad
    with pytest.raises(QuantizationError, match=r"head\.weight"):
        quantizer(x)


def test_blending_in_keeps_its_formula() -> None:
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    quantizer = make_quantizer("bitnet/ternary").train()
    quantizer.kernels, quantizer.blend = Given(), 0.25
    assert torch.equal(quantizer(x), x + 0.25 * (quantizer.encode(x).decode() - x))
