from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from qcore.errors import QcoreError, UsageError
from qcore.measure.statistics import (
    Outcome,
    Spread,
    brown_forsythe,
    fold_residuals,
    holm,
    nadeau_bengio_t,
    paired_test,
    spread,
    tost,
    wilcoxon,
)

DIFFERENCES = [0.01, 0.02, 0.03, 0.04, 0.05]
SIMULATIONS = 4000


def overlapping_differences(generator: np.random.Generator, k: int = 5) -> np.ndarray:
    """Differences of variance 1 whose correlation 0.2 is the test share of five folds: what the correction assumes."""
    common = generator.standard_normal((SIMULATIONS, 1)) * math.sqrt(0.2)
    return common + generator.standard_normal((SIMULATIONS, k)) * math.sqrt(0.8)


def rate(outcomes: list[Outcome], alpha: float = 0.05) -> float:
    return float(np.mean([outcome.p_value is not None and outcome.p_value <= alpha for outcome in outcomes]))


def test_spread_is_mean_and_sample_deviation_and_unknown_for_one_value() -> None:
    assert spread([1.0, 2.0, 3.0]) == Spread(2.0, 1.0, 3)
    assert spread([4.0]).std is None
    with pytest.raises(QcoreError):
        spread([])
    with pytest.raises(QcoreError, match="NaN"):
        spread([1.0, float("nan")])


def test_the_corrected_t_equals_its_formula_worked_by_hand() -> None:
    # mean 0.03, var 0.00025, (1/5 + 1/4) var = 0.0001125, t = 0.03 / 0.0106066 = 2.828427, 4 degrees of freedom
    found = nadeau_bengio_t(DIFFERENCES, train_n=400, test_n=100)
    assert found.estimate == pytest.approx(0.03)
    assert found.statistic == pytest.approx(2.8284271)
    assert found.p_value == pytest.approx(2 * stats.t.sf(2.8284271, 4))
    assert found.interval == pytest.approx((0.03 - 2.7764451 * 0.0106066, 0.03 + 2.7764451 * 0.0106066), rel=1e-5)
    assert "Nadeau-Bengio" in found.method


def test_without_the_correction_it_is_the_ordinary_paired_t_test() -> None:
    a, b = np.array([0.8, 0.7, 0.9, 0.85]), np.array([0.7, 0.72, 0.8, 0.81])
    found, reference = paired_test(a, b), stats.ttest_rel(a, b)
    assert found.statistic == pytest.approx(reference.statistic)
    assert found.p_value == pytest.approx(reference.pvalue)
    low, high = reference.confidence_interval(0.95)
    assert found.interval == pytest.approx((low, high))


def test_seeds_and_folds_count_together() -> None:
    table = np.arange(10.0).reshape(2, 5)
    assert nadeau_bengio_t(table, 4, 1) == nadeau_bengio_t(table.ravel(), 4, 1)
    assert nadeau_bengio_t(table, 4, 1).n == 10


def test_the_corrected_t_keeps_its_level_on_overlapping_folds_and_the_ordinary_one_does_not() -> None:
    drawn = overlapping_differences(np.random.default_rng(1))
    noise = 3 * math.sqrt(0.05 * 0.95 / SIMULATIONS)
    assert rate([nadeau_bengio_t(row, 4, 1) for row in drawn]) == pytest.approx(0.05, abs=noise)
    assert rate([nadeau_bengio_t(row) for row in drawn]) > 0.10


def test_tost_equals_two_one_sided_tests_of_scipy() -> None:
    differences = np.array([0.004, -0.002, 0.006, 0.001, -0.003])
    found = tost(differences, 0.01)
    lower = stats.ttest_1samp(differences, -0.01, alternative="greater").pvalue
    upper = stats.ttest_1samp(differences, 0.01, alternative="less").pvalue
    assert found.p_value == pytest.approx(max(lower, upper))
    assert tost(-differences, 0.01).p_value == pytest.approx(found.p_value)


def test_tost_with_the_correction_equals_its_formula_worked_by_hand() -> None:
    # as above, but (0.1 - 0.03) / 0.0106066 = 6.599663
    found = tost(DIFFERENCES, 0.1, 400, 100)
    assert found.statistic == pytest.approx(6.599663)
    assert found.p_value == pytest.approx(stats.t.sf(6.599663, 4), rel=1e-5)
    assert found.interval == pytest.approx((0.03 - 2.1318468 * 0.0106066, 0.03 + 2.1318468 * 0.0106066), rel=1e-5)


@pytest.mark.parametrize("sign", [-1, 1])
def test_tost_finds_equivalence_at_the_margin_no_more_often_than_its_level(sign: int) -> None:
    margin = 4.0
    drawn = overlapping_differences(np.random.default_rng(2)) + sign * margin
    noise = 3 * math.sqrt(0.05 * 0.95 / SIMULATIONS)
    found = rate([tost(row, margin, 4, 1) for row in drawn])
    assert found <= 0.05 + noise
    assert found >= 0.05 - noise  # a wide margin makes the level exact, so the test is not merely cautious


def test_tost_finds_equivalence_within_the_margin() -> None:
    drawn = overlapping_differences(np.random.default_rng(3))
    assert rate([tost(row, 4.0, 4, 1) for row in drawn]) > 0.9
    assert rate([tost(row, 0.5, 4, 1) for row in drawn]) < 0.05


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=10), st.floats(0.01, 1))
def test_tost_is_significant_just_when_its_interval_lies_within_the_margin(values: list[float], margin: float) -> None:
    found = tost(values, margin, 4, 1)
    assert found.interval is not None and found.p_value is not None
    within = max(abs(bound) for bound in found.interval)
    if abs(within - margin) > 1e-9:
        assert (found.p_value <= 0.05) == (within < margin)


def test_differences_without_variance_give_the_limit_and_say_so() -> None:
    equal = tost([0.0] * 5, 0.01, 4, 1)
    assert equal.p_value == 0.0 and equal.statistic is None and equal.reason is not None
    assert tost([0.02] * 5, 0.01, 4, 1).p_value == 1.0
    assert nadeau_bengio_t([0.0] * 5).p_value == 1.0
    assert nadeau_bengio_t([0.1] * 5).p_value == 0.0


def test_one_difference_cannot_be_tested() -> None:
    for found in (tost([0.01], 0.1), nadeau_bengio_t([0.01])):
        assert found.p_value is None and found.estimate == 0.01 and "two" in str(found.reason)


def test_impossible_arguments_are_refused() -> None:
    for margin in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="margin"):
            tost(DIFFERENCES, margin)
    with pytest.raises(UsageError, match="train_n and test_n"):
        tost(DIFFERENCES, 0.1, train_n=10)
    with pytest.raises(UsageError, match="as many values"):
        paired_test([1.0, 2.0], [1.0])
    with pytest.raises(QcoreError, match="NaN"):
        nadeau_bengio_t([1.0, float("nan")])
    with pytest.raises(UsageError, match="confidence"):
        nadeau_bengio_t(DIFFERENCES, confidence=1.0)


def test_wilcoxon_equals_scipy_and_its_exact_value() -> None:
    a, b = np.array([0.8, 0.7, 0.9, 0.85, 0.6]), np.array([0.7, 0.62, 0.83, 0.81, 0.59])
    found = wilcoxon(a, b)
    assert found.p_value == pytest.approx(2 / 2**5)  # all five of one sign
    assert found.p_value == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert wilcoxon([0.0, 0.0, 0.0]).p_value == 1.0
    assert wilcoxon([]).p_value is None


def test_brown_forsythe_equals_an_anova_of_the_deviations_from_the_medians() -> None:
    generator = np.random.default_rng(4)
    a, b = generator.standard_normal(12), 3 * generator.standard_normal(9)
    found = brown_forsythe(a, b)
    reference = stats.f_oneway(np.abs(a - np.median(a)), np.abs(b - np.median(b)))
    assert found.statistic == pytest.approx(reference.statistic)
    assert found.p_value == pytest.approx(reference.pvalue)
    assert found.estimate == pytest.approx(math.log(a.var(ddof=1) / b.var(ddof=1)))


def test_brown_forsythe_on_five_against_five_never_falls_below_its_least_p() -> None:
    # The deviations are at best 0 on one side and (0, 1, 1, 1, 1) or the like on the other: W = 16, p = 0.00395.
    found = brown_forsythe([0.5] * 5, [0.0, 0.0, 0.5, 1.0, 1.0])
    assert found.statistic == pytest.approx(16.0) and found.p_value == pytest.approx(0.00395, abs=1e-5)
    assert found.estimate is None and "constant" in str(found.reason)


def test_brown_forsythe_keeps_its_level() -> None:
    generator = np.random.default_rng(5)
    drawn = generator.standard_normal((1500, 2, 25))
    assert rate([brown_forsythe(a, b) for a, b in drawn]) <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1500)


def test_brown_forsythe_says_why_it_cannot() -> None:
    assert brown_forsythe([1.0, 1.0, 1.0], [2.0, 2.0, 2.0]).reason == "both samples are constant"
    assert "three" in str(brown_forsythe([1.0, 2.0], [1.0, 2.0, 3.0]).reason)


def test_fold_residuals_take_off_what_a_fold_is_like() -> None:
    scores = np.array([[0.8, 0.5], [0.9, 0.5]])
    assert fold_residuals(scores) == pytest.approx([-0.05, 0.0, 0.05, 0.0])
    assert fold_residuals([0.8, 0.6]) == pytest.approx([0.1, -0.1])


def test_holm_equals_its_procedure_worked_by_hand() -> None:
    # sorted 0.01 * 4, 0.015 * 3, 0.03 * 2, 0.04 * 1, each at least the one before
    assert holm([0.03, 0.01, 0.04, 0.015]) == pytest.approx([0.06, 0.04, 0.06, 0.045])
    assert holm([]) == []
    assert holm([0.2]) == [0.2]
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    with pytest.raises(UsageError):
        holm([0.1, 1.2])
    with pytest.raises(UsageError):
        holm([float("nan")])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_its_input_and_bonferroni_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1.0, len(p_values) * p) + 1e-12
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    assert all(adjusted[i] <= adjusted[j] for i, j in zip(order, order[1:], strict=False))


def test_an_outcome_is_plain_data() -> None:
    import json

    data = json.loads(json.dumps(nadeau_bengio_t(DIFFERENCES, 4, 1).as_dict()))
    assert data["interval"] == pytest.approx(list(nadeau_bengio_t(DIFFERENCES, 4, 1).interval or ()))
