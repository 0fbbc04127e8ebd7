from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qcore_bitnet.binary import Binary
from qcore_bitnet.config import BinaryConfig


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_signs_are_around_the_mean_and_the_scale_is_the_mean_magnitude() -> None:
    weight = torch.tensor([[4.0, 1.0], [1.0, 2.0]])  # mean 2, mean magnitude 2
    encoded = Binary().encode(weight)
    assert encoded.codes.tolist() == [[1.0, -1.0], [-1.0, -1.0]]  # a weight at the mean counts as below
    assert float(encoded.scale) == 2.0


def test_codes_and_scale_equal_the_papers_formulas() -> None:
    weight = normal(16, 33) + 0.2
    codes = torch.where(weight - weight.mean() > 0, 1.0, -1.0)
    encoded = Binary().encode(weight)
    assert torch.equal(encoded.codes, codes)
    assert float(encoded.scale) == pytest.approx(float(weight.abs().mean()), rel=1e-6)


def test_the_scale_is_of_the_weight_itself_and_not_of_the_centred_one() -> None:
    weight = torch.tensor([[101.0, 99.0]])
    assert torch.equal(Binary()(weight), torch.tensor([[100.0, -100.0]]))


def test_zeros_stay_zeros() -> None:
    assert torch.equal(Binary()(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_row_and_group_scales_equal_one_tensor_scale_for_each_slice() -> None:
    weight = normal(3, 10)
    by_row = Binary(BinaryConfig(granularity="row"))(weight)
    assert torch.equal(by_row, torch.cat([Binary()(row.reshape(1, -1)) for row in weight]))
    by_group = Binary(BinaryConfig(granularity="group", group_size=4))(weight)
    parts = [torch.cat([Binary()(part) for part in row.reshape(1, -1).split(4, dim=1)], dim=1) for row in weight]
    assert torch.equal(by_group, torch.cat(parts))


def test_the_gradient_passes_unchanged() -> None:
    weight, upstream = normal(4, 6).requires_grad_(), normal(4, 6, seed=1)
    Binary()(weight).backward(upstream)
    assert torch.equal(weight.grad, upstream)


def test_a_weight_takes_one_bit_and_the_bytes_are_these() -> None:
    packed = Binary().quantize(torch.tensor([[5.0, -5.0, -5.0, 5.0, 5.0, 5.0, -5.0, -5.0, 5.0, -5.0]]))
    (block,) = packed.blocks
    assert (block.codec, block.bits) == ("packn@1", 1)
    assert block.data.tolist() == [[0b00111001, 0b1]]  # least significant bit first
    assert packed.nbytes == 2 + 4


@settings(max_examples=100, deadline=None)
@given(
    arrays(
        "float32",
        st.tuples(st.integers(1, 6), st.integers(1, 17)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    ),
    st.sampled_from([BinaryConfig(), BinaryConfig(granularity="row"), BinaryConfig(granularity="group", group_size=3)]),
)
def test_any_finite_matrix_packs_to_what_eval_gives(values, config) -> None:
    weight, quantizer = torch.from_numpy(values), Binary(config).eval()
    evaluated = quantizer(weight)
    assert torch.equal(quantizer.quantize(weight).dequantize(), evaluated)
    assert torch.equal(quantizer.train()(weight), evaluated)
    assert evaluated.isfinite().all()
