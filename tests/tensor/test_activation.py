"""ActivationScheme: inputs become codes by the documented steps, each token by itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcore.quantizers import make_quantizer
from qcore.tensor import ActivationScheme

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(
    seed=st.integers(0, 2**32),
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=4),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    dtype=st.sampled_from(DTYPES),
)
def test_a_scheme_gives_the_codes_of_the_quantizer_that_it_describes(
    seed: int, shape: list[int], bits: int, symmetric: bool, dtype: torch.dtype
) -> None:
    quantizer = make_quantizer(f"core/int(bits={bits}, symmetric={symmetric}, granularity='token')")
    x = normal(*shape, seed=seed).to(dtype)
    scheme = quantizer.scheme()
    assert scheme is not None
    ours, theirs = scheme.encode(x), quantizer.encode(x)
    assert torch.equal(ours.codes, theirs.codes)
    assert torch.equal(ours.scale, theirs.scale)
    assert torch.equal(ours.decode(), quantizer(x))
    assert (ours.shape, ours.dtype, ours.encoding, ours.bits) == (x.shape, dtype, theirs.encoding, bits)


def test_a_static_scheme_uses_its_range_and_clips_what_lies_outside() -> None:
    scheme = ActivationScheme(8, True, False, low=torch.tensor([[-1.0]]), high=torch.tensor([[1.0]]))
    coded = scheme.encode(torch.tensor([[0.5, -3.0], [2.0, 0.0]]))
    assert coded.scale.shape == (1, 1)
    assert coded.codes.tolist() == [[64, -127], [127, 0]]  # 63.5 rounds to the even 64


def test_a_token_has_the_same_codes_alone_and_among_others() -> None:
    x = normal(7, 33) * torch.logspace(-6, 6, 7)[:, None]
    for symmetric in (True, False):
        scheme = ActivationScheme(8, symmetric)
        together = scheme.encode(x)
        for row in range(7):
            alone = scheme.encode(x[row : row + 1])
            assert torch.equal(alone.codes[0], together.codes[row])
            assert torch.equal(alone.scale[0], together.scale[row])


def test_a_floor_keeps_quiet_tokens_quiet() -> None:
    coded = ActivationScheme(8, floor=1e-5).encode(torch.tensor([[1e-9, -1e-9]]))
    assert coded.codes.tolist() == [[0, 0]]
    assert coded.scale.item() == pytest.approx(1e-5 / 127)


def test_the_range_of_an_affine_token_holds_zero() -> None:
    coded = ActivationScheme(8, symmetric=False).encode(torch.tensor([[2.0, 3.0], [-3.0, -2.0], [0.0, 0.0]]))
    assert coded.encoding == "uint"
    assert coded.zero_point is not None
    assert coded.zero_point.tolist() == [[0], [255], [0]]
    assert torch.allclose(coded.decode(), torch.tensor([[2.0, 3.0], [-3.0, -2.0], [0.0, 0.0]]), atol=3 / 255)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_token_that_is_not_finite_shows_and_spoils_no_other(bad: float) -> None:
    x = normal(3, 8)
    clean = ActivationScheme(8).encode(x).decode()
    x[1, 2] = bad
    decoded = ActivationScheme(8).encode(x).decode()
    assert not torch.isfinite(decoded[1]).all()
    assert torch.equal(decoded[[0, 2]], clean[[0, 2]])


def test_the_input_is_not_written_to() -> None:
    x = normal(3, 8)
    before = x.clone()
    ActivationScheme(8, symmetric=False).encode(x)
    assert torch.equal(x, before)


def static(bits: int, symmetric: bool, low: float, high: float) -> ActivationScheme:
    low = -high if symmetric else low
    return ActivationScheme(bits, symmetric, False, low=torch.full((1, 1), low), high=torch.full((1, 1), high))


@given(
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    low=st.floats(-(2.0**100), 0, width=32),
    high=st.floats(0, 2.0**100, width=32),
    size=st.sampled_from([1e-30, 1e-3, 1.0, 1e20]),
)
def test_the_values_of_codes_have_those_codes(bits: int, symmetric: bool, low: float, high: float, size: float) -> None:
    scheme = static(bits, symmetric, low, high)
    x = torch.cat(
        [normal(3, 40) * size, normal(3, 40) * max(high, -low), torch.tensor([[0.0, torch.inf, -torch.inf]] * 3)], 1
    )
    codes = scheme.codes(x)
    assert torch.equal(codes, scheme.encode(x).codes)
    assert torch.equal(scheme.codes(scheme.values(codes)), codes)
    assert torch.equal(scheme.codes(scheme.values(codes.view(3, 1, -1))), codes.view(3, 1, -1))


def test_nan_is_no_code() -> None:
    scheme = static(8, False, -1, 1)
    assert scheme.codes(torch.tensor([[torch.nan, 0.5]])).isnan().tolist() == [[True, False]]
    assert scheme.values(torch.tensor([[torch.nan, 3.0]])).isnan().tolist() == [[True, False]]


def test_schemes_agree_that_give_every_number_the_same_code() -> None:
    scheme = static(8, False, -1, 1)
    assert scheme.is_static and scheme.agrees(static(8, False, -1, 1))
    for other in (static(7, False, -1, 1), static(8, True, -1, 1), static(8, False, -1, 1.5), ActivationScheme(8)):
        assert not scheme.agrees(other)
        assert not other.agrees(scheme)
    assert not ActivationScheme(8).is_static
