from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from qcore.errors import QuantizationError
from qcore_true4bit.resident import ResidentConfig, ResidentLinear
from qcore_true4bit.resident.codes import dither
from qcore_true4bit.resident.update import chunks_of, update

WEIGHT = [[0.4, -0.8, 0.1], [1.4, -0.35, 0.7]]
GRADIENT = [[0.5, -0.25, 1.0], [-2.0, 0.0, 0.125]]


def layer_of(**options: Any) -> ResidentLinear:
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.tensor(WEIGHT)
    made = ResidentLinear(layer, ResidentConfig(moments="float", **options), torch.Generator())
    made.generator = torch.Generator().manual_seed(4)
    return made


def first_direction(gradient: float) -> float:
    return gradient / math.sqrt(gradient**2 + 1e-16)  # at the first step both moments are the gradient's own


def target(layer: ResidentLinear, row: int, col: int, lr: float, decay: float, bound: float | None) -> float:
    scale, code = float(layer.scale[row]), float(layer.integer_codes()[row, col])
    step = lr if layer.config.unit == "code" else lr / scale
    value = code * (1 - lr * decay) - step * first_direction(GRADIENT[row][col])
    return value if bound is None else bound / scale * math.tanh(value * scale / bound)


@pytest.mark.parametrize("unit", ["weight", "code"])
@pytest.mark.parametrize("bound", [None, 1.5])
@pytest.mark.parametrize("residual", [True, False])
def test_one_update_is_the_formula(residual: bool, bound: float | None, unit: str) -> None:
    layer = layer_of(residual=residual, soft_clip=bound, unit=unit)
    layer.lr, layer.weight_decay = 0.07, 0.3
    expected = [[target(layer, i, j, 0.07, 0.3, bound) for j in range(3)] for i in range(2)]
    noise = dither(torch.Size([2, 3]), torch.Generator().manual_seed(4)).tolist()
    update(layer, torch.tensor(GRADIENT))
    codes = layer.integer_codes().tolist()
    for i in range(2):
        for j in range(3):
            t, u = expected[i][j], noise[i][j] + 0.5
            if not residual:
                assert codes[i][j] == max(-7, min(7, math.floor(t + u)))
                continue
            assert layer.residual is not None
            q = max(-7, min(7, round(t)))
            assert codes[i][j] == q
            assert int(layer.residual[i, j]) == max(-128, min(127, math.floor(256 * (t - q) + u)))


def test_the_mean_of_many_updates_is_the_target() -> None:
    layer = layer_of(soft_clip=None)
    layer.lr, count = 0.03, 4000
    expected = [[target(layer, i, j, 0.03, 0.0, None) for j in range(3)] for i in range(2)]
    start, total = layer.codes.clone(), torch.zeros(2, 3, dtype=torch.float64)
    for _ in range(count):
        layer.codes.copy_(start)
        layer.moments.load_state_dict({})
        for buffer in layer.moments.buffers():
            buffer.zero_()
        update(layer, torch.tensor(GRADIENT))
        total += layer.integer_codes()
    inside = torch.tensor(expected).abs() < 7
    difference = (total / count - torch.tensor(expected, dtype=torch.float64)).abs()
    assert (difference[inside] < 5 * 0.5 / count**0.5).all()


def test_a_residual_gathers_steps_that_are_far_below_a_code() -> None:
    layer = layer_of(residual=True, soft_clip=None, unit="code")
    layer.lr = 0.01
    before = layer.integer_codes()
    for _ in range(300):
        update(layer, torch.ones(2, 3))
    assert ((layer.integer_codes() - before + 3).abs() <= 1).logical_or(layer.integer_codes() == -7).all()


def test_clip_bounds_the_norm_of_the_layers_gradient() -> None:
    clipped, small = layer_of(clip=0.5), layer_of()
    gradient = torch.tensor(GRADIENT)
    update(clipped, gradient)
    update(small, gradient * 0.5 / gradient.norm())
    assert torch.allclose(clipped.moments.first, small.moments.first)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_not_finite_is_refused_by_the_layers_name(bad: float) -> None:
    layer = layer_of(residual=True)
    layer.tensor_name = "features.0.weight"
    before = [buffer.clone() for buffer in layer.buffers()]
    gradient = torch.tensor(GRADIENT)
    gradient[1, 1] = bad
    with pytest.raises(QuantizationError, match="features.0.weight"):
        update(layer, gradient)
    assert all(torch.equal(a, b) for a, b in zip(before, layer.buffers(), strict=True))


def test_chunks_cover_all_rows_once() -> None:
    for rows, cols in ((1, 3), (700, 100), (3, 1 << 18)):
        chunks = chunks_of(torch.empty(rows, cols, device="meta"))
        assert [row for chunk in chunks for row in range(rows)[chunk]] == list(range(rows))
        assert all((chunk.stop - chunk.start) * cols <= 1 << 20 or chunk.stop - chunk.start == 1 for chunk in chunks)
