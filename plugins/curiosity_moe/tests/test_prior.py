from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from qcore_curiosity_moe import prior

EXPERTS = st.integers(2, 6)
STRENGTH = st.floats(0.0, 20.0)


@st.composite
def distributions(draw: st.DrawFn, experts: int | None = None, rows: int | None = None) -> Tensor:
    shape = (rows or draw(st.integers(1, 8)), experts or draw(EXPERTS))
    logits = draw(hnp.arrays("float64", shape, elements=st.floats(-15, 15)))
    return torch.softmax(torch.from_numpy(logits), dim=-1)


@st.composite
def many_passes(draw: st.DrawFn) -> Tensor:
    shape = (draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(EXPERTS))
    logits = draw(hnp.arrays("float64", shape, elements=st.floats(-30, 30)))
    return torch.softmax(torch.from_numpy(logits), dim=-1)


@st.composite
def priors(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    p = draw(distributions())
    bits = draw(st.lists(st.sampled_from([1.0, 1.6, 2.0, 4.0, 8.0, 32.0]), min_size=p.shape[1], max_size=p.shape[1]))
    u = draw(hnp.arrays("float64", p.shape[0], elements=st.floats(0, 1)))
    return p, torch.from_numpy(u), torch.tensor(prior.betas(bits), dtype=torch.float64)


def curious(p: Tensor, u: Tensor, beta: Tensor, alpha: float) -> Tensor:
    return prior.tilt(p, alpha * u.unsqueeze(1) * beta)


def expected_beta(p: Tensor, beta: Tensor) -> Tensor:
    return (p * beta).sum(dim=1)


@given(priors())
def test_alpha_zero_is_the_identity(case: tuple[Tensor, Tensor, Tensor]) -> None:
    p, u, beta = case
    assert torch.equal(curious(p, u, beta, 0.0), p)
    assert torch.equal(curious(p.float(), u.float(), beta.float(), 0.0), p.float())


@given(priors(), st.floats(0.05, 20.0))
def test_a_positive_strength_changes_rows_that_are_unsure(case: tuple[Tensor, Tensor, Tensor], alpha: float) -> None:
    p, u, beta = case
    changed = (curious(p, u, beta, alpha) - p).abs().amax(dim=1)
    spread = (p * (beta - expected_beta(p, beta).unsqueeze(1)).square()).sum(dim=1)
    unsure = (u > 0.05) & (spread > 1e-6)
    assert (changed[unsure] > 1e-9).all()
    assert (changed[u == 0] == 0).all()


@given(priors(), STRENGTH, STRENGTH)
def test_expected_precision_never_falls_as_alpha_rises(
    case: tuple[Tensor, Tensor, Tensor], one: float, other: float
) -> None:
    p, u, beta = case
    low, high = sorted((one, other))
    less, more = (expected_beta(curious(p, u, beta, alpha), beta) for alpha in (low, high))
    assert (more >= less - 1e-12).all()


@given(priors(), STRENGTH, st.floats(0, 1))
def test_expected_precision_never_falls_as_uncertainty_rises(
    case: tuple[Tensor, Tensor, Tensor], alpha: float, share: float
) -> None:
    p, u, beta = case
    less, more = (expected_beta(curious(p, v, beta, alpha), beta) for v in (u * share, u))
    assert (more >= less - 1e-12).all()


@given(distributions(), STRENGTH)
def test_equal_bits_change_nothing(p: Tensor, alpha: float) -> None:
    beta = torch.tensor(prior.betas([4.0] * p.shape[1]), dtype=torch.float64)
    assert torch.equal(curious(p, torch.ones(len(p), dtype=torch.float64), beta, alpha), p)


@given(distributions(), st.floats(-50, 50), STRENGTH)
def test_one_scalar_for_all_experts_of_a_row_changes_nothing(p: Tensor, scalar: float, alpha: float) -> None:
    # What the paper's Eq. 8 came to in code: a negative test, such a term must never be taken for curiosity.
    assert torch.allclose(prior.tilt(p, torch.full((len(p), 1), alpha * scalar).double()), p, atol=1e-12)


@given(priors(), st.floats(0.0, 1e6))
def test_probabilities_sum_to_one_however_strong_the_prior(case: tuple[Tensor, Tensor, Tensor], alpha: float) -> None:
    p, u, beta = case
    tilted = curious(p, u, beta, alpha)
    assert torch.isfinite(tilted).all()
    assert torch.allclose(tilted.sum(dim=1), torch.ones(len(p), dtype=torch.float64), atol=1e-12)


@given(distributions(), STRENGTH)
def test_sharpening_never_moves_the_largest(p: Tensor, alpha: float) -> None:
    sharp = prior.sharpen(p, torch.tensor(alpha).double())
    rows = torch.arange(len(p))
    assert (sharp[rows, p.argmax(dim=1)] >= sharp.amax(dim=1) - 1e-12).all()
    assert torch.allclose(sharp, torch.softmax(torch.log(p) * (1 + alpha), dim=1), atol=1e-9)


@given(many_passes())
def test_mutual_information_lies_between_zero_and_its_bound(passes: Tensor) -> None:
    found = prior.mutual_information(passes)
    assert (found >= 0).all()
    assert (found <= math.log(passes.shape[2]) + 1e-12).all()
    assert (found <= math.log(passes.shape[0]) + 1e-9).all()


@given(many_passes())
def test_total_variance_lies_between_zero_and_its_bound(passes: Tensor) -> None:
    found = prior.total_variance(passes)
    assert (found >= 0).all()
    assert (found <= prior.uncertainty_bound("variance", passes.shape[2]) + 1e-12).all()


@given(many_passes())
def test_one_pass_knows_no_uncertainty(passes: Tensor) -> None:
    one = passes[:1]
    assert torch.equal(prior.mutual_information(one), torch.zeros(passes.shape[1], dtype=torch.float64))
    assert torch.equal(prior.total_variance(one), torch.zeros(passes.shape[1], dtype=torch.float64))


@given(many_passes())
def test_information_gain_of_an_expert_is_its_own_divergence_from_the_mean(passes: Tensor) -> None:
    mean = passes.mean(dim=0)
    direct = torch.zeros_like(mean)
    for p in passes:
        for q, own in ((mean, p), (1 - mean, 1 - p)):
            direct += torch.where(own > 0, own * (own / q.clamp_min(1e-300)).log(), 0.0) / len(passes)
    assert torch.allclose(prior.information_gain(passes), direct, atol=1e-9)


def test_mutual_information_is_the_bound_when_passes_contradict_each_other() -> None:
    passes = torch.eye(3, dtype=torch.float64).unsqueeze(1)
    assert prior.mutual_information(passes).item() == pytest.approx(math.log(3), abs=1e-12)


@given(
    hnp.arrays("float64", st.integers(1, 40), elements=st.floats(0, 2)),
    st.floats(0, 1),
    st.floats(-0.5, 1),
)
def test_the_calibrated_map_stays_in_0_1_and_keeps_the_order(values: object, low: float, span: float) -> None:
    u = torch.as_tensor(values).sort().values
    mapped = prior.calibrated(u, torch.tensor(low).double(), torch.tensor(low + span).double())
    assert ((mapped >= 0) & (mapped <= 1)).all()
    assert (mapped.diff() >= 0).all()
    if span <= 0:
        assert (mapped == 0).all()


def test_the_calibrated_map_of_a_row_is_free_of_the_batch_and_minmax_is_not() -> None:
    u, low, high = torch.tensor([0.1, 0.2, 0.4]), torch.tensor(0.05), torch.tensor(0.3)
    assert torch.equal(prior.calibrated(u, low, high)[:1], prior.calibrated(u[:1], low, high))
    assert prior.batch_minmax(u)[1] != prior.batch_minmax(u[1:2])[0]
    assert prior.batch_minmax(u[1:2]).item() == 0.0


@given(hnp.arrays("float64", st.integers(1, 50), elements=st.floats(0, 1)))
def test_quantiles_interpolate_as_numpy_does(values: object) -> None:
    import numpy as np

    found = prior.quantiles(torch.as_tensor(values), 0.05, 0.95)
    assert np.allclose([float(q) for q in found], np.quantile(values, (0.05, 0.95)), atol=1e-12)


def test_beta_is_linear_in_bits_and_ties_give_zero() -> None:
    assert prior.betas([1.58, 4, 8]) == pytest.approx([0.0, 0.377, 1.0], abs=1e-3)
    assert prior.betas([1, 2, 4], "log2") == pytest.approx([0.0, 0.5, 1.0])
    assert prior.betas([4, 4]) == [0.0, 0.0]
