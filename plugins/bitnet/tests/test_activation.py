from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qcore.errors import QuantizationError
from qcore_bitnet.activation import Absmax


def reference(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The authors' two lines: codes, and 1 / s as what a code is worth."""
    s = 127.0 / x.abs().max(dim=-1, keepdim=True).values.clamp(min=1e-5)
    return (x * s).round().clamp(-127, 127), 1.0 / s


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_codes_equal_the_authors_lines() -> None:
    x = normal(32, 65) * torch.logspace(-6, 6, 32).reshape(-1, 1)
    codes, worth = reference(x)
    encoded = Absmax().encode(x)
    assert torch.equal(encoded.codes, codes)
    assert torch.allclose(encoded.scale, worth, rtol=1e-6)


def test_the_largest_magnitude_of_each_token_is_127() -> None:
    codes = Absmax().encode(normal(9, 12)).codes
    assert torch.equal(codes.abs().amax(dim=1), torch.full((9,), 127.0))


def test_every_row_of_a_sequence_is_a_token() -> None:
    x = normal(2, 3, 8)
    assert torch.equal(Absmax()(x).reshape(6, 8), Absmax()(x.reshape(6, 8)))


def test_a_token_below_the_limit_is_coded_by_the_limit() -> None:
    encoded = Absmax().encode(torch.tensor([[1e-6, -5e-7]]))
    assert encoded.codes.tolist() == [[13.0, -6.0]]  # 127 * 0.1 and 127 * 0.05, rounded


def test_the_scheme_for_kernels_gives_the_same_codes() -> None:
    x, quantizer = normal(5, 7), Absmax()
    ours, theirs = quantizer.encode(x), quantizer.scheme().encode(x)
    assert torch.equal(ours.codes, theirs.codes) and torch.equal(ours.scale, theirs.scale)


def test_the_gradient_passes_unchanged() -> None:
    x, upstream = normal(4, 6).requires_grad_(), normal(4, 6, seed=1)
    Absmax()(x).backward(upstream)
    assert torch.equal(x.grad, upstream)


def test_blend_interpolates_in_training_alone() -> None:
    x, quantizer = normal(3, 7), Absmax()
    quantized = quantizer.eval()(x)
    quantizer.blend = 0.5
    assert torch.equal(quantizer(x), quantized)
    assert torch.equal(quantizer.train()(x), x + 0.5 * (quantized - x))


def test_infinity_is_refused() -> None:
    with pytest.raises(QuantizationError, match="infinite"):
        Absmax()(torch.tensor([[1.0, float("inf")]]))


@settings(max_examples=100, deadline=None)
@given(
    arrays(
        "float32",
        st.tuples(st.integers(0, 5), st.integers(1, 17)),
        elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
    )
)
def test_no_value_is_off_by_more_than_half_a_step(values) -> None:
    x = torch.from_numpy(values)
    step = x.abs().amax(dim=1, keepdim=True).clamp_min(1e-5) / 127
    assert ((Absmax()(x).double() - x.double()).abs() <= step.double() * (0.5 + 1e-4)).all()
