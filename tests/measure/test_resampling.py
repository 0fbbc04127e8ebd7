from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from qcore.errors import QcoreError, UsageError
from qcore.measure.resampling import (
    bootstrap_log_variance_ratio,
    mean_difference_permutation,
    spearman_permutation,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_spearman_equals_scipys_with_ties() -> None:
    a, b = rng().integers(0, 5, 40), rng(1).integers(0, 3, 40)
    assert spearman_permutation(a, b, rng(2)).estimate == pytest.approx(stats.spearmanr(a, b).statistic)


@pytest.mark.parametrize("alternative", ["two-sided", "greater", "less"])
def test_the_permutation_p_approaches_the_exact_one(alternative: str) -> None:
    a, b = np.arange(6.0), np.array([1.0, 0.0, 2.0, 4.0, 3.0, 5.0])
    every = np.array([stats.spearmanr(a, np.array(order)).statistic for order in itertools.permutations(b)])
    observed = stats.spearmanr(a, b).statistic
    extreme = {
        "two-sided": np.abs(every) >= abs(observed) - 1e-9,
        "greater": every >= observed - 1e-9,
        "less": every <= observed + 1e-9,
    }[alternative]
    found = spearman_permutation(a, b, rng(3), permutations=20_000, alternative=alternative)  # type: ignore[arg-type]
    assert found.p_value == pytest.approx(extreme.mean(), abs=4 * math.sqrt(extreme.mean() / 20_000) + 1e-4)


def test_a_permutation_p_is_never_zero_and_depends_on_the_generator_alone() -> None:
    a = np.arange(50.0)
    found = spearman_permutation(a, a, rng(), permutations=99, alternative="greater")
    assert found.estimate == pytest.approx(1.0) and found.p_value == pytest.approx(0.01)
    b = rng(8).standard_normal(50)
    assert spearman_permutation(a, b, rng(4)) == spearman_permutation(a, b, rng(4))


def test_shuffling_in_chunks_gives_the_same_p(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = rng(1).standard_normal((2, 30))
    whole = spearman_permutation(a, b, rng(5), permutations=500)
    monkeypatch.setattr("qcore.measure.resampling._CHUNK_NUMBERS", 70)
    assert spearman_permutation(a, b, rng(5), permutations=500).p_value == whole.p_value


def test_the_permutation_test_keeps_its_level() -> None:
    generator = rng(6)
    p_values = [
        spearman_permutation(*generator.standard_normal((2, 15)), generator, permutations=199).p_value
        for _ in range(1000)
    ]
    share = np.mean([p <= 0.05 for p in p_values if p is not None])
    assert share == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 1000))


def test_constants_have_no_order_and_the_reason_says_which() -> None:
    found = spearman_permutation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0], rng())
    assert found.p_value is None and found.estimate is None and "the first values are constant" in str(found.reason)
    assert "the second" in str(spearman_permutation([1.0, 2.0, 3.0], [5.0, 5.0, 5.0], rng()).reason)
    assert "three pairs" in str(spearman_permutation([1.0, 2.0], [2.0, 1.0], rng()).reason)


def test_strata_remove_what_only_differs_between_models() -> None:
    generator = rng(7)
    strata = np.repeat([0, 1], 100)
    a, b = generator.standard_normal(200) + 10 * strata, generator.standard_normal(200) + 10 * strata
    assert spearman_permutation(a, b, rng(), permutations=500).p_value == pytest.approx(1 / 501)
    within = spearman_permutation(a, b, rng(), permutations=500, strata=strata)
    expected = np.mean([stats.spearmanr(a[strata == s], b[strata == s]).statistic for s in (0, 1)])
    assert within.estimate == pytest.approx(expected)
    assert within.p_value is not None and within.p_value > 0.05


def test_a_constant_stratum_is_left_out_and_reported() -> None:
    a = np.concatenate([np.arange(10.0), np.arange(10.0)])
    b = np.concatenate([np.arange(10.0), np.zeros(10)])
    found = spearman_permutation(a, b, rng(), permutations=200, strata=np.repeat([0, 1], 10))
    assert found.estimate == pytest.approx(1.0) and found.n == 10 and "1 strata are constant" in str(found.reason)
    nothing = spearman_permutation(a, np.repeat([0.0, 1.0], 10), rng(), strata=np.repeat([0, 1], 10))
    assert nothing.p_value is None and nothing.reason is not None


def test_unpaired_or_unknown_input_is_refused() -> None:
    with pytest.raises(UsageError, match="as many values"):
        spearman_permutation([1.0, 2.0], [1.0], rng())
    with pytest.raises(QcoreError, match="NaN"):
        spearman_permutation([1.0, float("nan"), 2.0], [1.0, 2.0, 3.0], rng())
    with pytest.raises(UsageError, match="alternative"):
        spearman_permutation([1.0, 3.0, 2.0], [1.0, 2.0, 3.0], rng(), alternative="bigger")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="permutations"):
        spearman_permutation([1.0, 3.0, 2.0], [1.0, 2.0, 3.0], rng(), permutations=0)
    with pytest.raises(UsageError, match="as many values"):
        bootstrap_log_variance_ratio([1.0, 2.0, 3.0], [1.0, 2.0], rng())


def test_the_log_variance_ratio_is_signed_and_symmetric() -> None:
    a, b = rng(1).standard_normal(30), 3 * rng(2).standard_normal(30)
    forward = bootstrap_log_variance_ratio(a, b, rng(3))
    backward = bootstrap_log_variance_ratio(b, a, rng(3))
    assert forward.estimate == pytest.approx(math.log(a.var(ddof=1) / b.var(ddof=1)))
    assert forward.estimate is not None and forward.estimate < 0
    assert forward.interval is not None and backward.interval is not None
    assert forward.interval == pytest.approx((-backward.interval[1], -backward.interval[0]))
    assert forward.interval[0] < forward.estimate < forward.interval[1] < 0
    assert forward.p_value is not None and forward.p_value < 0.05


def test_the_bootstrap_interval_equals_scipys() -> None:
    a, b = rng(1).standard_normal(25), rng(2).standard_normal(25)

    def ratio(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.log(x.var(axis=axis, ddof=1) / y.var(axis=axis, ddof=1))

    reference = stats.bootstrap(
        (a, b), ratio, paired=True, method="percentile", n_resamples=20_000, vectorized=True, rng=rng(4)
    ).confidence_interval
    found = bootstrap_log_variance_ratio(a, b, rng(5), resamples=20_000)
    assert found.interval == pytest.approx((reference.low, reference.high), abs=0.05)


def test_the_bootstrap_interval_covers_about_as_often_as_it_says() -> None:
    generator = rng(6)
    covered = 0
    for _ in range(300):
        a, b = generator.standard_normal((2, 25))
        interval = bootstrap_log_variance_ratio(a, b, generator, resamples=400).interval
        covered += interval is not None and interval[0] <= 0 <= interval[1]
    assert 0.87 <= covered / 300 <= 0.99


def test_constant_samples_have_no_ratio_and_the_reason_says_which() -> None:
    varied, constant = [1.0, 2.0, 4.0], [3.0, 3.0, 3.0]
    for a, b, which in ((constant, varied, "the first"), (varied, constant, "the second"), (constant,) * 2 + ("and",)):
        found = bootstrap_log_variance_ratio(a, b, rng())
        assert (found.estimate, found.interval, found.p_value) == (None, None, None)
        assert which in str(found.reason)
    assert "two values" in str(bootstrap_log_variance_ratio([1.0], [2.0], rng()).reason)


def test_mostly_constant_resamples_give_the_estimate_without_an_interval() -> None:
    a, b = [0.0] * 9 + [1.0], [0.0, 1.0] * 5
    found = bootstrap_log_variance_ratio(a, b, rng())
    assert (
        found.estimate is not None and found.interval is None and "of the resamples are constant" in str(found.reason)
    )


def test_the_difference_of_means_is_tested_exactly_enough() -> None:
    found = mean_difference_permutation([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], rng(), permutations=20_000)
    assert found.estimate == pytest.approx(-3.0)
    assert found.p_value == pytest.approx(2 / 20, abs=0.01)
    assert mean_difference_permutation([1.0], [], rng()).p_value is None
    assert mean_difference_permutation([2.0, 2.0], [2.0], rng(), permutations=99).p_value == 1.0
