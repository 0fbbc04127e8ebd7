from __future__ import annotations

from typing import Literal

import pytest
import torch

from qcore_true4bit.resident.config import ResidentConfig
from qcore_true4bit.resident.moments import Squares, make_moments

Kind = Literal["factored", "8bit", "float"]


def directions(kind: Kind, gradients: list[torch.Tensor], factor: float = 1.0) -> torch.Tensor:
    moments = make_moments(*gradients[0].shape, ResidentConfig(moments=kind))
    generator = torch.Generator().manual_seed(0)
    for gradient in gradients:
        everything = slice(0, len(gradient))
        moments.begin(Squares(gradient, [everything]), factor)
        direction = moments.direction(everything, gradient, factor, generator)
    return direction


def drawn(count: int, shape: tuple[int, int] = (6, 40)) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    size = torch.rand(shape[0], 1, generator=generator) + 0.1  # rank one, so that factors lose nothing on average
    return [torch.randn(shape, generator=generator) * size + 0.3 * size for _ in range(count)]


def adam(gradients: list[torch.Tensor]) -> torch.Tensor:
    weight = torch.zeros_like(gradients[0]).requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=1.0)
    for gradient in gradients:
        weight.data.zero_()
        weight.grad = gradient
        optimizer.step()
    return -weight.detach()


def test_float_moments_give_the_direction_of_adam() -> None:
    gradients = drawn(7)
    assert torch.allclose(directions("float", gradients), adam(gradients), rtol=1e-4, atol=1e-5)


def test_8_bit_moments_give_nearly_that_direction() -> None:
    gradients = drawn(20)
    exact = adam(gradients)
    error = directions("8bit", gradients) - exact
    assert error.square().mean().sqrt() < 0.05 * exact.square().mean().sqrt()


def test_factored_moments_are_adams_where_the_squares_have_rank_one() -> None:
    row, col = torch.tensor([[1.0], [2.0], [5.0]]), torch.tensor([[1.0, -3.0, 0.5, 2.0]])
    gradients = [row * col] * 4
    assert torch.allclose(directions("factored", gradients), adam(gradients), rtol=0.02)


def test_the_squares_are_means_and_the_norm_is_the_gradients() -> None:
    (gradient,) = drawn(1)
    squares = Squares(gradient, [slice(0, 4), slice(4, 6)])
    assert torch.allclose(squares.rows, gradient.square().mean(1))
    assert torch.allclose(squares.cols, gradient.square().mean(0))
    assert squares.norm == pytest.approx(float(gradient.norm()), rel=1e-5)


@pytest.mark.parametrize("kind", ["factored", "8bit", "float"])
def test_a_factor_of_the_gradient_leaves_the_direction(kind: Kind) -> None:
    gradients = drawn(3)
    assert torch.allclose(directions(kind, gradients), directions(kind, gradients, 0.01), rtol=0.2, atol=0.02)


@pytest.mark.parametrize("kind", ["factored", "8bit", "float"])
def test_a_gradient_of_zeros_moves_nothing(kind: Kind) -> None:
    assert torch.equal(directions(kind, [torch.zeros(2, 3)]), torch.zeros(2, 3))


@pytest.mark.parametrize("kind", ["factored", "8bit", "float"])
def test_state_is_no_part_of_a_models_file(kind: Kind) -> None:
    moments = make_moments(2, 3, ResidentConfig(moments=kind))
    assert not moments.state_dict()
    assert "steps" in dict(moments.named_buffers())
