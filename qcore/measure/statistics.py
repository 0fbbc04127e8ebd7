"""Statistics of scores over folds and seeds. scipy is imported when a test runs.

Scores of folds share most of their training samples, so their differences are correlated and the ordinary paired t test
finds far too much. The tests here widen the variance accordingly (C. Nadeau and Y. Bengio, "Inference for the
Generalization Error", Machine Learning 52, 2003; for repeated folds R. Bouckaert and E. Frank, PAKDD 2004).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcore.errors import QcoreError, UsageError
from qcore.measure.outcome import Outcome, as_numbers, check_level, check_pairs
from qcore.measure.resampling import (
    bootstrap_log_variance_ratio,
    mean_difference_permutation,
    spearman_permutation,
)

__all__ = [
    "Outcome",
    "Spread",
    "bootstrap_log_variance_ratio",
    "brown_forsythe",
    "fold_residuals",
    "holm",
    "mean_difference_permutation",
    "nadeau_bengio_t",
    "paired_test",
    "per_fold",
    "spearman_permutation",
    "spread",
    "tost",
    "wilcoxon",
]


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n - 1) of ``n`` values; ``std`` is None for one value."""

    mean: float
    std: float | None
    n: int


def spread(values: ArrayLike) -> Spread:
    """Return mean and standard deviation of all ``values``.

    Raises:
        QcoreError: there are none, or one is not finite.
    """
    array = as_numbers(values, "the values")
    if len(array) == 0:
        raise QcoreError("there are no values to average")
    return Spread(float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else None, len(array))


def nadeau_bengio_t(
    differences: ArrayLike, train_n: int | None = None, test_n: int | None = None, *, confidence: float = 0.95
) -> Outcome:
    """Test whether the mean of paired differences over folds (and seeds) is zero, two-sided.

    ``t = mean / sqrt((1/k + test_n/train_n) var)`` with k - 1 degrees of freedom, where k counts folds times seeds.

    Args:
        differences: (k,) or (seeds, folds).
        train_n: samples of a training part; None with ``test_n`` None makes it the ordinary paired t test.
        test_n: samples of a test part.
        confidence: of the interval.

    Source: Nadeau and Bengio 2003, section 4 (the corrected resampled t test).
    """
    error = _MeanError.of(differences, train_n, test_n)
    check_level(confidence, "confidence")
    method = f"paired t test, two-sided{error.correction}"
    if error.size is None:
        return Outcome(method=method, n=error.n, estimate=error.mean, reason="it takes at least two differences")
    if error.size == 0.0:
        return Outcome(
            method=method,
            n=error.n,
            estimate=error.mean,
            p_value=1.0 if error.mean == 0.0 else 0.0,
            interval=(error.mean, error.mean),
            confidence=confidence,
            reason="all differences are equal, so the p value is the limit for no variance",
        )
    statistic = error.mean / error.size
    return Outcome(
        method=method,
        n=error.n,
        estimate=error.mean,
        statistic=statistic,
        p_value=float(2.0 * error.tail(abs(statistic))),
        interval=error.interval(confidence),
        confidence=confidence,
    )


def paired_test(
    a: ArrayLike, b: ArrayLike, train_n: int | None = None, test_n: int | None = None, *, confidence: float = 0.95
) -> Outcome:
    """Test whether ``a - b`` is zero on average: scores of two arms in one order of folds and seeds."""
    return nadeau_bengio_t(_differences(a, b), train_n, test_n, confidence=confidence)


def tost(
    differences: ArrayLike,
    margin: float,
    train_n: int | None = None,
    test_n: int | None = None,
    *,
    alpha: float = 0.05,
) -> Outcome:
    """Test equivalence: two one-sided t tests, of ``mean <= -margin`` and of ``mean >= margin``.

    The p value is the larger of the two; where it is at most alpha, the interval of confidence 1 - 2 alpha lies within
    the margin. The statistic is that of the larger p value, signed so that positive speaks for equivalence.

    Args:
        differences: (k,) or (seeds, folds) paired differences.
        margin: the largest difference that still counts as equal, above 0, in the metric's unit.
        train_n: samples of a training part, for the variance correction; None with ``test_n`` None leaves it out.
        test_n: samples of a test part.
        alpha: level of the interval.

    Source: D. Schuirmann, J. Pharmacokinetics and Biopharmaceutics 15, 1987; variance as in ``nadeau_bengio_t``.
    """
    if not (margin > 0.0 and math.isfinite(margin)):
        raise UsageError(f"the margin of an equivalence test must be above 0, got {margin}")
    if not 0.0 < alpha < 0.5:
        raise UsageError(f"alpha must lie between 0 and 0.5, got {alpha}")
    error = _MeanError.of(differences, train_n, test_n)
    method = f"two one-sided t tests, margin {margin:g}, paired{error.correction}"
    if error.size is None:
        return Outcome(method=method, n=error.n, estimate=error.mean, reason="it takes at least two differences")
    room = margin - abs(error.mean)
    if error.size == 0.0:
        return Outcome(
            method=method,
            n=error.n,
            estimate=error.mean,
            p_value=0.0 if room > 0.0 else 1.0,
            interval=(error.mean, error.mean),
            confidence=1.0 - 2.0 * alpha,
            reason="all differences are equal, so the p value is the limit for no variance",
        )
    return Outcome(
        method=method,
        n=error.n,
        estimate=error.mean,
        statistic=room / error.size,
        p_value=error.tail(room / error.size),
        interval=error.interval(1.0 - 2.0 * alpha),
        confidence=1.0 - 2.0 * alpha,
    )


def wilcoxon(a: ArrayLike, b: ArrayLike | None = None) -> Outcome:
    """Test whether paired differences (``a - b``, or ``a``) are symmetric about zero: signed ranks, two-sided.

    Zero differences are left out. This test knows no correction for overlapping training parts: report it beside
    ``nadeau_bengio_t``, not instead.
    """
    from scipy.stats import wilcoxon as signed_ranks

    differences = as_numbers(a, "the differences") if b is None else _differences(a, b)
    method = "Wilcoxon signed ranks, two-sided"
    estimate = float(np.median(differences)) if len(differences) else None
    if not differences.any():
        reason = "all differences are zero" if len(differences) else "there are no differences"
        p_value = 1.0 if len(differences) else None
        return Outcome(method=method, n=len(differences), estimate=estimate, p_value=p_value, reason=reason)
    found = signed_ranks(differences, zero_method="wilcox")
    return Outcome(
        method=method,
        n=len(differences),
        estimate=estimate,
        statistic=float(found.statistic),
        p_value=float(found.pvalue),
    )


def brown_forsythe(a: ArrayLike, b: ArrayLike) -> Outcome:
    """Test whether two samples have equal spread: Levene's test about the medians, two-sided.

    The estimate is ``log(var(a) / var(b))``. With five values on either side the smallest p value it can give is 0.004.

    Source: M. Brown and A. Forsythe, J. American Statistical Association 69, 1974.
    """
    from scipy.stats import levene

    first, second = as_numbers(a, "the first sample"), as_numbers(b, "the second sample")
    method, n = "Brown-Forsythe (Levene about the medians), two-sided", len(first) + len(second)
    if min(len(first), len(second)) < 3:
        return Outcome(method=method, n=n, reason="it takes at least three values on either side")
    variances = first.var(ddof=1), second.var(ddof=1)
    if max(variances) == 0.0:
        return Outcome(method=method, n=n, reason="both samples are constant")
    estimate = float(np.log(variances[0] / variances[1])) if min(variances) > 0.0 else None
    with np.errstate(divide="ignore", invalid="ignore"):  # judged below
        found = levene(first, second, center="median")
    if not math.isfinite(found.statistic):
        return Outcome(method=method, n=n, estimate=estimate, reason="the deviations from the medians do not vary")
    return Outcome(
        method=method,
        n=n,
        estimate=estimate,
        statistic=float(found.statistic),
        p_value=float(found.pvalue),
        reason=None if estimate is not None else "one sample is constant, so the ratio of variances is 0 or infinite",
    )


def per_fold(differences: ArrayLike) -> NDArray[np.float64]:
    """Return (folds,) means over the seeds of paired ``differences`` (seeds, folds); (seeds,) where there is one fold.

    All seeds share their folds, so that the differences of one fold are no independent samples: a test that takes them
    one by one rejects too often.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 2:
        return values.ravel()
    return values.ravel() if values.shape[1] == 1 else values.mean(axis=0)


def fold_residuals(scores: ArrayLike) -> NDArray[np.float64]:
    """Return (seeds x folds,) residuals of ``scores`` (seeds, folds): each fold's mean over its seeds is taken off.

    What is left is how much a score depends on the seed, whatever the folds' difficulty. With one seed it is the grand
    mean that is taken off, and the spread is that over folds.
    """
    array = np.atleast_2d(np.asarray(scores, dtype=np.float64))
    centre = array.mean(axis=0, keepdims=True) if len(array) > 1 else array.mean()
    residuals: NDArray[np.float64] = (array - centre).ravel()
    return residuals


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number, in the given order: a claim holds if its own is at most alpha.

    Source: S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian J. Statistics 6, 1979.

    Raises:
        UsageError: one of them is no probability.
    """
    if not all(0.0 <= p <= 1.0 for p in p_values):
        raise UsageError("a p value to be adjusted lies outside 0..1")
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def _differences(a: ArrayLike, b: ArrayLike) -> NDArray[np.float64]:
    first, second = as_numbers(a, "the first scores"), as_numbers(b, "the second scores")
    check_pairs(first, second)
    return first - second


@dataclass(frozen=True)
class _MeanError:
    """A mean of n correlated differences, and its standard error (None for fewer than two)."""

    n: int
    mean: float
    size: float | None
    correction: str

    @classmethod
    def of(cls, differences: ArrayLike, train_n: int | None, test_n: int | None) -> _MeanError:
        array = as_numbers(differences, "the differences")
        if len(array) == 0:
            raise QcoreError("there are no differences to test")
        overlap, correction = 0.0, ""
        if train_n is not None or test_n is not None:
            if not train_n or not test_n or train_n < 0 or test_n < 0:
                raise UsageError(f"train_n and test_n must both be above 0, got {train_n} and {test_n}")
            overlap, correction = test_n / train_n, ", Nadeau-Bengio corrected"
        k = len(array)
        constant = bool((array == array[0]).all())
        variance = 0.0 if constant else float(array.var(ddof=1)) if k > 1 else 0.0
        size = math.sqrt((1.0 / k + overlap) * variance) if k > 1 else None
        return cls(k, float(array[0]) if constant else float(array.mean()), size, correction)

    def tail(self, statistic: float) -> float:
        """Return the probability that Student's t exceeds ``statistic``."""
        from scipy.special import stdtr

        return float(stdtr(self.n - 1, -statistic))

    def interval(self, confidence: float) -> tuple[float, float]:
        from scipy.special import stdtrit

        assert self.size is not None
        half = float(stdtrit(self.n - 1, 0.5 + confidence / 2.0)) * self.size
        return self.mean - half, self.mean + half
