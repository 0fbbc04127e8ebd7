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
