from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qcore.errors import QuantizationError
from qcore.tensor import QTensor
from qcore_bitnet.config import TernaryConfig
from qcore_bitnet.ternary import Ternary


def paper(weight: torch.Tensor) -> tuple[torch.Tensor, float]:
    """The formula of the paper with the authors' lower limit, in plain torch."""
    gamma = weight.abs().mean().clamp(min=1e-5)
    return (weight / gamma).round().clamp(-1, 1), float(gamma)


def half_even(x: Fraction) -> int:
    return round(x)


def exact_codes(values: list[float], gamma: float) -> list[int]:
    """Codes from rational arithmetic: no rounding but the one that is asked for."""
    return [max(-1, min(1, half_even(Fraction(value) / Fraction(gamma)))) for value in values]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (64, 128), (8, 3, 3, 3)])
def test_codes_equal_the_papers_formula(shape: tuple[int, ...]) -> None:
    weight = normal(*shape)
    codes, gamma = paper(weight)
    encoded = Ternary().encode(weight)
    assert torch.equal(encoded.codes, codes.reshape(shape[0], -1))
    assert encoded.scale.shape == (1, 1)
    assert float(encoded.scale) == pytest.approx(gamma, rel=1e-6)


def test_the_fake_quantized_weight_is_code_times_scale() -> None:
    weight = torch.tensor([[0.9, -0.1, 0.4], [-1.6, 0.2, 0.0]])
    gamma = (0.9 + 0.1 + 0.4 + 1.6 + 0.2) / 6
    wanted = gamma * torch.tensor([[1.0, 0.0, 1.0], [-1.0, 0.0, 0.0]])
    assert torch.allclose(Ternary()(weight), wanted)


def test_half_the_scale_rounds_to_zero_as_ties_go_to_even() -> None:
    weight = torch.tensor([[1.0, -1.0, 3.0, -3.0]])  # the mean magnitude is 2
    assert Ternary().encode(weight).codes.tolist() == [[0.0, 0.0, 1.0, -1.0]]


def test_three_halves_of_the_scale_stay_at_one() -> None:
    weight = torch.tensor([[3.0, -3.0, 1.0, 1.0]])
    assert Ternary().encode(weight).codes.tolist() == [[1.0, -1.0, 0.0, 0.0]]


def test_tiny_weights_have_the_lower_limit_as_scale_and_code_zero() -> None:
    encoded = Ternary().encode(torch.full((2, 3), 1e-9))
    assert float(encoded.scale) == pytest.approx(1e-5)
    assert not encoded.codes.any()


def test_zeros_stay_zeros() -> None:
    assert torch.equal(Ternary()(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_row_scales_equal_one_tensor_scale_for_each_row() -> None:
    weight = normal(5, 9) * torch.logspace(-3, 3, 5).reshape(-1, 1)
    by_row = Ternary(TernaryConfig(granularity="row"))(weight)
    alone = torch.cat([Ternary()(row.reshape(1, -1)) for row in weight])
    assert torch.equal(by_row, alone)


def test_group_scales_equal_one_tensor_scale_for_each_group_also_for_a_short_last_one() -> None:
    weight = normal(3, 11)
    by_group = Ternary(TernaryConfig(granularity="group", group_size=4))(weight)
    parts = [torch.cat([Ternary()(part) for part in row.reshape(1, -1).split(4, dim=1)], dim=1) for row in weight]
    assert torch.equal(by_group, torch.cat(parts))


def test_the_mean_of_huge_weights_does_not_overflow() -> None:
    weight = torch.full((4, 64), 3e38)
    assert torch.equal(Ternary()(weight), weight)


def test_memory_layout_does_not_change_the_scale() -> None:
    weight = normal(257, 129)
    assert torch.equal(Ternary().encode(weight.t().contiguous().t()).scale, Ternary().encode(weight).scale)


def test_the_gradient_passes_unchanged_everywhere() -> None:
    weight = (normal(4, 6) * 10).requires_grad_()
    upstream = normal(4, 6, seed=1)
    Ternary()(weight).backward(upstream)
    assert torch.equal(weight.grad, upstream)


def test_the_mask_stops_the_gradient_beyond_three_halves_of_the_scale() -> None:
    weight = torch.tensor([[4.0, 1.0, 1.0, -2.0], [3.0, -3.0, 1.0, 1.0]], requires_grad=True)  # the scale is 2
    Ternary(TernaryConfig(mask=True))(weight).sum().backward()
    assert weight.grad.tolist() == [[0.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]]


def test_no_gradient_reaches_the_scale() -> None:
    weight = normal(2, 4).requires_grad_()
    (Ternary()(weight) * 1000).sum().backward()
    assert torch.equal(weight.grad, torch.full((2, 4), 1000.0))


@pytest.mark.parametrize("blend", [0.0, 0.25, 1.0])
def test_blend_interpolates_in_training_and_never_in_eval(blend: float) -> None:
    weight, quantizer = normal(3, 7), Ternary()
    quantized = quantizer.eval()(weight)
    quantizer.blend = blend
    assert torch.equal(quantizer(weight), quantized)
    assert torch.equal(quantizer.train()(weight), weight + blend * (quantized - weight) if blend < 1 else quantized)
    assert torch.equal(quantizer.quantize(weight).dequantize(), quantized)


def test_golden_bytes_of_a_ternary_matrix() -> None:
    weight = torch.tensor([[2.0, -2.0, 0.0, 2.0, 0.0, -2.0, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0, 2.0, 2.0]])
    packed = Ternary().quantize(weight)
    (block,) = packed.blocks
    assert block.codec == "trit5@1"
    # Code + 1 in base 3, first code the least significant digit: 2 0 1 2 1 is 2 + 0 + 9 + 54 + 81 = 146, 0 2 is 6.
    assert block.data.tolist() == [[146, 6], [121, 8]]
    assert float(packed.scale) == pytest.approx(14 / 14)


def test_a_weight_takes_a_fifth_of_a_byte() -> None:
    packed = Ternary().quantize(normal(64, 1000))
    assert packed.nbytes == 64 * 200 + 4
    assert packed.effective_bits == pytest.approx(1.6, abs=1e-3)


def test_nan_is_refused_and_the_tensor_named() -> None:
    quantizer = Ternary()
    quantizer.tensor_name = "blocks.1.linear.weight"
    with pytest.raises(QuantizationError, match="blocks.1.linear.weight"):
        quantizer(torch.tensor([[1.0, float("nan")]]))


configs = st.sampled_from(
    [
        TernaryConfig(),
        TernaryConfig(granularity="row"),
        TernaryConfig(granularity="group", group_size=1),
        TernaryConfig(granularity="group", group_size=3),
        TernaryConfig(mask=True),
    ]
)
matrices = arrays(
    "float32",
    st.tuples(st.integers(1, 6), st.integers(1, 17)),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


@settings(max_examples=150, deadline=None)
@given(matrices, configs, st.sampled_from([torch.float32, torch.bfloat16]))
def test_any_finite_matrix_packs_to_what_eval_gives(values, config, dtype) -> None:
    weight = torch.from_numpy(values).to(dtype)
    weight = torch.where(weight.isfinite(), weight, 0)  # bfloat16 rounds the largest floats up to infinity
    quantizer = Ternary(config).eval()
    packed = quantizer.quantize(weight)
    evaluated = quantizer(weight)
    assert torch.equal(packed.dequantize(), evaluated)
    assert torch.equal(QTensor.from_parts(packed.tensors(), packed.metadata()).dequantize(), evaluated)
    assert torch.equal(quantizer.train()(weight), evaluated)
    assert evaluated.isfinite().all()
    assert set(quantizer.encode(weight).codes.unique().tolist()) <= {-1.0, 0.0, 1.0}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-64, 64), min_size=1, max_size=12))
def test_codes_equal_those_of_rational_arithmetic(numerators: list[int]) -> None:
    values = [numerator / 8 for numerator in numerators]
    encoded = Ternary().encode(torch.tensor([values]))
    assert encoded.codes.flatten().tolist() == exact_codes(values, float(encoded.scale))
