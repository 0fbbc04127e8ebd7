"""The steps of routers and mixtures: their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcore.backends.plan import Choose, Constant, Disagreement, MaskedCopies, Normalise, PassMean, Softmax, Tilt
from qcore.errors import UsageError

AT = ((0,), 1, "router")


def passes(rows: int = 4, count: int = 5, width: int = 3, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(rows, count, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return torch.softmax(3 * drawn, dim=-1)


def test_masked_copies_are_the_products_with_each_mask() -> None:
    masks = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]], dtype=torch.float64)
    step, x = MaskedCopies(*AT, masks), torch.arange(6, dtype=torch.float64).reshape(2, 3)
    assert step.infer((3,)) == step.infer((2, 3)) == (2, 3)
    assert torch.equal(step.apply(x)[1, 0], x[1] * masks[0])
    assert torch.equal(step.apply(step.apply(x)), step.apply(x) * masks)
    with pytest.raises(UsageError):
        step.infer((4,))


@given(st.integers(0, 1000))
def test_passes_that_agree_do_not_disagree_and_the_most_is_the_entropy(seed: int) -> None:
    p = passes(seed=seed)
    for kind, most in (("mutual_information", math.log(3)), ("variance", 1.0)):
        step = Disagreement(*AT, kind)
        same = p[:, :1].expand_as(p)
        assert step.apply(same).abs().max() < 1e-12
        assert step.apply(p).min() >= 0 and step.apply(p).max() <= most
        assert torch.equal(step.apply(p[:, :1]), torch.zeros(4, 1, dtype=torch.float64))
    sure = torch.eye(3, dtype=torch.float64).unsqueeze(0)
    assert Disagreement(*AT, "mutual_information").apply(sure).item() == pytest.approx(math.log(3))


def test_normalise_clips_and_is_zero_without_a_range() -> None:
    x = torch.tensor([[-1.0], [0.25], [9.0]], dtype=torch.float64)
    assert Normalise(*AT, 0.0, 0.5).apply(x).flatten().tolist() == [0.0, 0.5, 1.0]
    assert Normalise(*AT, 0.5, 0.5).apply(x).flatten().tolist() == [0.0, 0.0, 0.0]


def test_tilt_by_nothing_is_the_identity_and_impossible_stays_impossible() -> None:
    p = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    zero, u = torch.zeros(3, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    step = Tilt((0, 1), 2, "router", zero, zero)
    assert torch.equal(step.apply(p, u), p)
    steep = Tilt((0, 1), 2, "router", torch.tensor([0.0, 1.0, 900.0], dtype=torch.float64), zero).apply(p, u)
    assert steep.tolist()[0] == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e), 0.0])
    with pytest.raises(UsageError):
        step.infer((4,), (1,))


def test_choose_takes_the_largest_and_the_first_of_equals() -> None:
    p = torch.tensor([[0.2, 0.4, 0.4], [0.5, 0.25, 0.25]], dtype=torch.float64)
    assert Choose(*AT, 1).apply(p).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert Choose(*AT, 2).apply(p)[1].tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert bool(Choose(*AT, 1).apply(p * math.nan).isnan().any(dim=1).all())


def test_means_softmax_and_constants() -> None:
    p = passes()
    assert PassMean(*AT).infer((5, 3)) == (3,)
    torch.testing.assert_close(PassMean(*AT).apply(p).sum(dim=1), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(Softmax(*AT).apply(p.log()), p)
    assert Constant(*AT, torch.tensor([0.5, 0.5])).apply(p).tolist() == [[0.5, 0.5]] * 4
    for step in (PassMean(*AT), Disagreement(*AT, "variance")):
        with pytest.raises(UsageError):
            step.infer((3,))
