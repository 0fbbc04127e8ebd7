"""``core/int`` by fused kernels: which are asked, with the values and gradients of the way through torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from qcore.backends import TrainingKernels
from qcore.backends.training import ChosenKernels
from qcore.errors import QuantizationError
from qcore.quantizers import Quantizer, make_quantizer
from qcore.testing.inputs import same_bits, weights
from qcore.testing.training_problems import TorchTrainingKernels


class Given(ChosenKernels):
    """Serves one object, and counts which of its methods are called."""

    def __init__(self, kernels: TrainingKernels | None) -> None:
        super().__init__()
        self.kernels, self.calls = kernels, list[str]()

    def serve(self, x: Tensor) -> Any:
        return None if self.kernels is None else self

    def __getattr__(self, name: str) -> Any:
        self.calls.append(name)
        return getattr(self.kernels, name)


class Useless(TorchTrainingKernels):
    """Serves nothing, as if every tensor were beyond it."""

    def round_over_range(self, x: Tensor, bits: int, **options: Any) -> None: ...
    def round_to_grid(self, x: Tensor, grid: Any) -> None: ...
    def round_to_sign(self, x: Tensor, magnitude: Tensor, threshold: Tensor | None = None) -> None: ...
    def slice_sums(self, x: Tensor, *, magnitude: bool = False) -> Any: ...
    def mask_gradient(self, gradient: Tensor, x: Tensor, low: Tensor, high: Tensor) -> Any: ...


CONFIGS = [
    "core/int(bits=4)",
    "core/int(bits=8, granularity='tensor')",
    "core/int(bits=8, granularity='token')",
    "core/int(bits=3, symmetric=False)",
    "core/int(bits=4, granularity='group', group_size=4)",
    "core/int(bits=4, granularity='group', group_size=5, symmetric=False)",
    "core/int(bits=1)",
    "core/int(bits=1, granularity='group', group_size=3)",
    "core/int(bits=1, dynamic=False, granularity='tensor')",
    "core/int(bits=4, dynamic=False)",
    "core/int(bits=4, dynamic=False, granularity='tensor', symmetric=False)",
    "core/int(bits=4, dynamic=False, granularity='group', group_size=2)",
    "core/int(bits=4, scale='percentile', percentile=90.0)",
    "core/int(bits=4, scale='mse', symmetric=False)",
    "core/int(bits=4, scale='mse', granularity='group', group_size=4)",
]


def made(reference: str, x: Tensor, kernels: TrainingKernels | None) -> tuple[Quantizer, Given]:
    quantizer = make_quantizer(reference)
    quantizer.kernels = given = Given(kernels)
    quantizer.initialize(x * 0.7)
    return quantizer, given


def trained(quantizer: Quantizer, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    y = quantizer(leaf)
    y.backward(torch.linspace(-1, 1, x.numel()).reshape(x.shape))
    assert leaf.grad is not None
    return y.detach(), leaf.grad


@pytest.mark.parametrize("kernels", [TorchTrainingKernels(), Useless()], ids=["formulas", "useless"])
@pytest.mark.parametrize("reference", CONFIGS)
def test_values_and_gradients_are_those_of_torch(reference: str, kernels: TrainingKernels) -> None:
    for name, x in weights(torch.float32):
        plain, _ = made(reference, x, None)
        fused, _ = made(reference, x, kernels)
        for ours, theirs in zip(trained(fused, x), trained(plain, x), strict=True):
            assert same_bits(ours, theirs), name
        assert same_bits(fused.eval()(x), fused.encode(x).decode()), name


@pytest.mark.parametrize(
    ("reference", "calls"),
    [
        ("core/int(bits=4)", ["round_over_range"]),
        ("core/int(bits=4, granularity='group', group_size=4)", ["round_over_range"]),
        ("core/int(bits=4, granularity='group', group_size=5)", []),
        ("core/int(bits=1)", ["slice_sums", "round_to_sign"]),
        ("core/int(bits=4, dynamic=False)", ["round_to_grid", "mask_gradient"]),
        ("core/int(bits=4, scale='mse')", ["round_to_grid", "mask_gradient"]),
    ],
)
def test_each_config_asks_for_what_it_needs(reference: str, calls: list[str]) -> None:
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    quantizer, given = made(reference, x, TorchTrainingKernels())
    trained(quantizer, x)
    assert given.calls == calls


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("reference", CONFIGS)
def test_nan_and_infinity_are_refused_and_the_tensor_named(reference: str, bad: float) -> None:
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    quantizer, _ = made(reference, x, TorchTrainingKernels())
    quantizer.tensor_name = "blocks.0.weight"
    x[1, 2] = bad
    with pytest.raises(QuantizationError, match="blocks.0.weight"):
        quantizer(x)


def test_the_gradient_itself_can_be_differentiated() -> None:
    x = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    quantizer, given = made("core/int(bits=4, dynamic=False)", x.detach(), TorchTrainingKernels())
    (first,) = torch.autograd.grad((quantizer(x) ** 2).sum(), x, create_graph=True)
    assert "mask_gradient" not in given.calls
    (second,) = torch.autograd.grad(first.sum(), x)
    inside = (x.detach() >= quantizer.low) & (x.detach() <= quantizer.high)
    assert torch.equal(second, 2.0 * inside)
