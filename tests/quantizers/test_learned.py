"""A learned scale against the paper's equations, element by element, and by fused kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from qcore.backends.training import ChosenKernels
from qcore.errors import QuantizationError, UsageError
from qcore.quantizers import learned_scale, straight_through_inside
from qcore.testing.training_problems import TorchTrainingKernels


class Given(ChosenKernels):
    def serve(self, x: Tensor) -> Any:
        return TorchTrainingKernels()


def paper(x: float, s: float, low: float, high: float) -> tuple[float, float, float]:
    """Q(x), dQ/dx and dQ/ds by equations 1-3 and 5 of arXiv:1902.08153."""
    v = x / s
    code = max(low, min(high, round(v)))
    if v <= low:
        return code * s, 0.0, low
    if v >= high:
        return code * s, 0.0, high
    return code * s, 1.0, round(v) - v


@pytest.mark.parametrize("kernels", [None, Given()], ids=["torch", "fused"])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize(("low", "high"), [(-4.0, 3.0), (0.0, 7.0)])
def test_values_and_gradients_are_the_papers(kernels: ChosenKernels | None, rows: int, low: float, high: float) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randint(-40, 40, (4, 3, 5), generator=generator) / 8).requires_grad_()
    scale = torch.tensor([0.5, 1.0, 0.25, 2.0])[:rows].reshape(-1, 1).requires_grad_()  # quotients are exact
    upstream = torch.randint(-3, 4, x.shape, generator=generator).float()
    y = learned_scale(x, scale, low, high, kernels)
    y.backward(upstream)
    scales = scale.detach().expand(4, 1).repeat(1, 15).flatten().tolist()
    wanted = [paper(v, s, low, high) for v, s in zip(x.flatten().tolist(), scales, strict=True)]
    values, slopes, terms = (torch.tensor(column).reshape(x.shape) for column in zip(*wanted, strict=True))
    assert torch.equal(y, values)
    assert x.grad is not None and scale.grad is not None
    assert torch.equal(x.grad, slopes * upstream)
    assert torch.allclose(scale.grad.flatten(), (terms * upstream).reshape(rows, -1).sum(dim=1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dtypes_and_shapes_are_kept(dtype: torch.dtype) -> None:
    x = torch.randn(3, 4, dtype=dtype).t().requires_grad_()
    scale = torch.tensor(0.3, dtype=dtype, requires_grad=True)
    y = learned_scale(x, scale, -7, 7)
    y.sum().backward()
    for tensor, like in ((y, x), (x.grad, x), (scale.grad, scale)):
        assert tensor is not None and tensor.shape == like.shape and tensor.dtype == dtype


def test_nan_is_refused_and_the_tensor_named() -> None:
    x = torch.tensor([[1.0, torch.nan]])
    for kernels in (None, Given()):
        with pytest.raises(QuantizationError, match=r"head\.weight"):
            learned_scale(x, torch.ones(1), -7, 7, kernels, "head.weight")


def test_training_recovers_a_scale() -> None:
    x = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor(1.0, requires_grad=True)
    optimizer = torch.optim.SGD([scale], lr=0.3)
    errors = []
    for _ in range(60):
        optimizer.zero_grad()
        error = ((learned_scale(x, scale, -7, 7, Given()) - x) ** 2).mean()
        error.backward()
        optimizer.step()
        errors.append(float(error.detach()))
    assert errors[-1] < 0.2 * errors[0]


def test_the_gradients_themselves_can_be_differentiated() -> None:
    x = torch.tensor([[0.3, -0.4, 5.0]], requires_grad=True)
    scale = torch.tensor([[0.5]], requires_grad=True)
    (dscale,) = torch.autograd.grad(learned_scale(x, scale, -4, 3, Given()).sum(), scale, create_graph=True)
    second, mixed = torch.autograd.grad(dscale.sum(), (x, scale))
    assert second.tolist() == [[-2.0, -2.0, 0.0]]  # of round(x / s) - x / s, inside
    assert mixed.item() == pytest.approx((0.3 - 0.4) / 0.25)


@pytest.mark.parametrize("kernels", [None, Given()], ids=["torch", "fused"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_a_range_of_any_dtype_is_taken_in_float32(kernels: ChosenKernels | None, dtype: torch.dtype) -> None:
    x = torch.linspace(-3, 3, 12).reshape(2, 6).requires_grad_()
    low, high = torch.tensor([[-1], [0]], dtype=dtype), torch.tensor([[0], [2]], dtype=dtype)
    straight_through_inside(x, x.detach(), low, high, kernels).sum().backward()
    assert torch.equal(x.grad, ((x >= low.float()) & (x <= high.float())).float())  # type: ignore[arg-type]


def test_the_ends_of_a_range_are_rounded_to_float32() -> None:
    third = torch.tensor([1 / 3])
    for kernels in (None, Given()):
        x = third.clone().requires_grad_()
        above = third.double() + 1e-12  # float32 knows no difference
        straight_through_inside(x, x.detach(), above, torch.ones(1), kernels).backward()
        assert x.grad is not None and x.grad.item() == 1.0


@pytest.mark.parametrize(("lows", "highs"), [(1, 2), (2, 1), (0, 0), (5, 5)])
def test_a_range_has_one_low_and_one_high_for_each_slice(lows: int, highs: int) -> None:
    for x in (torch.zeros(2, 6), torch.zeros(2, 6, requires_grad=True)):
        with pytest.raises(UsageError, match="one low and one high for each slice"):
            straight_through_inside(x, x.detach(), torch.zeros(lows), torch.ones(highs))
