"""The steps of layers: shapes that they give and refuse, and their definitions in torch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from qcore.backends.plan import (
    BatchNorm,
    Flatten,
    LayerNorm,
    Linear,
    MaxPool,
    Program,
    Rescaling,
    SpatialMean,
    Standardization,
)
from qcore.errors import UsageError

AT = ((0,), 1, "block.0")


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@given(st.data())
def test_max_pool_infers_the_shape_that_torch_gives(data: st.DataObject) -> None:
    kernel = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = tuple(data.draw(st.integers(0, size // 2)) for size in kernel)
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    step = MaxPool(*AT, kernel, data.draw(pair), padding, data.draw(pair), data.draw(st.booleans()))
    x = normal(2, 3, data.draw(st.integers(10, 14)), data.draw(st.integers(10, 14)))
    assert step.infer(tuple(x.shape[1:])) == tuple(step.apply(x).shape[1:])


@pytest.mark.parametrize(
    ("step", "shape", "wanted"),
    [
        (Linear(*AT, normal(2, 3), None), (4,), "3 features"),
        (LayerNorm(*AT, None, None, 3, 1e-5), (4,), "3 features"),
        (BatchNorm(*AT, normal(3), normal(3), None, None, 1e-5), (4, 3), "3 channels"),
        (Standardization(*AT, normal(3), normal(3)), (4,), "3 features"),
        (Rescaling(*AT, normal(3), normal(3)), (4,), "3 features"),
        (SpatialMean(*AT, False), (4,), "height, width"),
        (MaxPool(*AT, (2, 2), (2, 2), (0, 0), (1, 1), False), (4,), "height, width"),
        (MaxPool(*AT, (5, 5), (1, 1), (0, 0), (1, 1), False), (1, 4, 4), "fits"),
    ],
)
def test_a_shape_that_does_not_fit_names_the_layer(step, shape, wanted) -> None:
    with pytest.raises(UsageError, match=f"^block.0 .*takes.*{wanted}"):
        Program((step,), step.output).shapes(shape)


@pytest.mark.parametrize("affine", [False, True])
def test_a_folded_batch_norm_is_a_multiplier_and_an_offset(affine: bool) -> None:
    weight, bias = (normal(4) + 1, normal(4)) if affine else (None, None)
    step = BatchNorm(*AT, normal(4), normal(4).abs() + 0.1, weight, bias, 1e-3)
    multiplier, offset = step.folded()
    x = normal(5, 4)
    torch.testing.assert_close(torch.addcmul(offset, x, multiplier), step.apply(x), rtol=1e-6, atol=1e-6)


def test_a_fused_relu_comes_last() -> None:
    x = normal(5, 3)
    norm = LayerNorm(*AT, None, None, 3, 1e-5, relu=True)
    assert norm.title == "layer norm + relu"
    assert torch.equal(norm.apply(x), F.relu(F.layer_norm(x, (3,))))


def test_a_precise_linear_computes_in_float64() -> None:
    step = Linear(*AT, normal(2, 3), normal(2), precise=True)
    assert step.apply(normal(4, 3)).dtype is torch.float64


def test_flatten_keeps_the_rows() -> None:
    step = Flatten(*AT)
    assert step.infer((2, 3, 4)) == (24,) and step.apply(normal(5, 2, 3, 4)).shape == (5, 24)
