"""ReLU and limits: what torch computes, on numbers and on their codes alike."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from qcore.backends.plan import Limit, Relu
from qcore.tensor import ActivationScheme

AT = ((0,), 1, "block.0")


def test_a_limit_after_a_relu_is_a_relu6() -> None:
    x = torch.tensor([-1.0, 0.0, 5.9, 6.0, 6.1, float("inf"), float("nan")])
    y = Limit(*AT, 6.0).apply(Relu(*AT).apply(x))
    torch.testing.assert_close(y, F.relu6(x), rtol=0, atol=0, equal_nan=True)
    assert Limit(*AT, 6.0).title == "up to 6"


@given(
    seed=st.integers(0, 2**32),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    top=st.floats(-2, 8, width=32),
    high=st.floats(0.015625, 8, width=32),
)
def test_on_codes_they_choose_the_code_of_what_they_choose(
    seed: int, bits: int, symmetric: bool, top: float, high: float
) -> None:
    low = torch.tensor([[-high if symmetric else -high / 3]])
    scheme = ActivationScheme(bits, symmetric, False, low=low, high=torch.tensor([[high]]))
    x = torch.randn(3, 50, generator=torch.Generator().manual_seed(seed)) * 4
    for plain, coded in ((Relu(*AT), Relu(*AT, scheme)), (Limit(*AT, top), Limit(*AT, top, scheme))):
        assert torch.equal(coded.apply(scheme.codes(x)), scheme.codes(plain.apply(x)))


@pytest.mark.parametrize("step", [Relu(*AT), Limit(*AT, 0.5)], ids=lambda step: step.title)
def test_they_keep_every_shape(step: Relu | Limit) -> None:
    assert step.infer((3, 4, 5)) == (3, 4, 5)
