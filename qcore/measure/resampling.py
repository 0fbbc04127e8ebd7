"""Bootstrap and permutation tests. Each draws from the generator it is given, and from nothing else."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcore.errors import UsageError
from qcore.measure.outcome import Outcome, as_numbers, check_level, check_pairs

__all__ = ["Alternative", "bootstrap_log_variance_ratio", "mean_difference_permutation", "spearman_permutation"]

Alternative = Literal["two-sided", "greater", "less"]
Floats = NDArray[np.float64]

_CHUNK_NUMBERS = 2_000_000
"""Numbers that are shuffled at a time: bounds the memory to a few times 16 MB."""

_TOLERANCE = 1e-12
"""Equal statistics, computed in another order of summation, count as equal."""

_MAX_DEGENERATE = 0.05
"""Share of resamples without a ratio above which the interval would describe the others only."""


def bootstrap_log_variance_ratio(
    a: ArrayLike,
    b: ArrayLike,
    generator: np.random.Generator,
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
    paired: bool = True,
) -> Outcome:
    """Return ``log(var(a) / var(b))`` with its percentile bootstrap interval; below 0 means that ``a`` varies less.

    The p value is two-sided, twice the smaller share of resamples on either side of 0. The percentile interval is too
    narrow for few values: of normal ones, one of 95 % covers the truth in about 90 % of cases with n = 5, 92 % with 25
    and 93 % with 50 (600 simulations each); of long-tailed ones, in fewer.

    Args:
        a: (n,) values of one arm.
        b: (m,) values of the other.
        generator: what the resamples are drawn from.
        resamples: how many.
        confidence: of the interval.
        paired: draw the same positions on both sides, since arms share folds and seeds; needs n = m.

    Source: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    first, second = as_numbers(a, "the first sample"), as_numbers(b, "the second sample")
    check_level(confidence, "confidence")
    _check_count(resamples, "resamples")
    if paired:
        check_pairs(first, second)
    method = f"log variance ratio, {'paired ' if paired else ''}percentile bootstrap, {resamples} resamples"
    n = len(first) if paired else len(first) + len(second)
    reason = _no_ratio(first, second)
    if reason is not None:
        return Outcome(method=method, n=n, reason=reason)
    estimate = float(np.log(first.var(ddof=1) / second.var(ddof=1)))
    ratios = _resampled_ratios(first, second, generator, resamples, paired)
    if len(ratios) < (1.0 - _MAX_DEGENERATE) * resamples:
        share = 1.0 - len(ratios) / resamples
        return Outcome(method=method, n=n, estimate=estimate, reason=f"{share:.0%} of the resamples are constant")
    low, high = np.quantile(ratios, [0.5 - confidence / 2.0, 0.5 + confidence / 2.0])
    beyond = min(int((ratios <= 0.0).sum()), int((ratios >= 0.0).sum()))
    return Outcome(
        method=method,
        n=n,
        estimate=estimate,
        statistic=estimate,
        p_value=min(1.0, 2.0 * (beyond + 1) / (len(ratios) + 1)),
        interval=(float(low), float(high)),
        confidence=confidence,
    )


def _no_ratio(first: Floats, second: Floats) -> str | None:
    if min(len(first), len(second)) < 2:
        return "it takes at least two values on either side"
    constant = [name for name, sample in (("first", first), ("second", second)) if np.ptp(sample) == 0.0]
    if constant:
        return f"the {' and the '.join(constant)} sample is constant, so the ratio is 0, infinite or undefined"
    return None


def _resampled_ratios(
    first: Floats, second: Floats, generator: np.random.Generator, resamples: int, paired: bool
) -> Floats:
    """Return the finite log ratios of the resamples; those with a constant side are left out."""
    rows = generator.integers(len(first), size=(resamples, len(first)))
    others = rows if paired else generator.integers(len(second), size=(resamples, len(second)))
    drawn = first[rows], second[others]
    usable = (np.ptp(drawn[0], axis=1) > 0.0) & (np.ptp(drawn[1], axis=1) > 0.0)
    variances = [sample[usable].var(axis=1, ddof=1) for sample in drawn]
    ratios: Floats = np.log(variances[0]) - np.log(variances[1])
    return ratios


def spearman_permutation(
    a: ArrayLike,
    b: ArrayLike,
    generator: np.random.Generator,
    *,
    permutations: int = 10_000,
    alternative: Alternative = "two-sided",
    strata: ArrayLike | None = None,
) -> Outcome:
    """Test whether ``a`` and ``b`` are monotonically related: Spearman's rank correlation (ties share ranks).

    ``p = (1 + permutations at least as extreme) / (1 + permutations)``. The samples must be exchangeable: give each
    sample once (the same sample under several seeds would count as new evidence), and where several models made the
    values, name the model of each in ``strata``: ranks and shuffles then stay within a model, and the statistic is the
    mean of the models' correlations, weighted by their samples. A model with constant values tells nothing and is left
    out.

    Args:
        a: (n,) values.
        b: (n,) values.
        generator: what the permutations are drawn from.
        permutations: how many.
        alternative: ``greater`` tests for a positive relation, ``less`` for a negative one.
        strata: (n,) labels, such as the fold; None for one stratum.

    Source: C. Spearman 1904; p value after B. Phipson and G. Smyth, "Permutation P-values Should Never Be Zero", 2010.
    """
    first, second = as_numbers(a, "the first values"), as_numbers(b, "the second values")
    check_pairs(first, second)
    _check_count(permutations, "permutations")
    labels = np.zeros(len(first)) if strata is None else np.asarray(strata).ravel()
    check_pairs(first, labels)
    within = "" if strata is None else ", within strata"
    method = f"Spearman's rank correlation, {alternative}, {permutations} permutations{within}"
    if len(first) < 3:
        return Outcome(method=method, n=len(first), reason="it takes at least three pairs")
    ranked = [_unit_ranks(first[labels == label], second[labels == label]) for label in np.unique(labels)]
    usable = [pair for pair in ranked if pair is not None]
    if not usable:
        side = "the first" if np.ptp(first) == 0.0 else "the second" if np.ptp(second) == 0.0 else "one side of the"
        return Outcome(method=method, n=len(first), reason=f"{side} values are constant, so they have no order")
    n = sum(len(x) for x, _ in usable)
    rho = sum(len(x) * float(x @ y) for x, y in usable) / n
    drawn = np.zeros(permutations)
    for x, y in usable:
        drawn += len(x) / n * _shuffled_products(y, x, generator, permutations)
    return Outcome(
        method=method,
        n=n,
        estimate=rho,
        statistic=rho,
        p_value=_permutation_p(rho, drawn, alternative),
        reason=None if len(usable) == len(ranked) else f"{len(ranked) - len(usable)} strata are constant and left out",
    )


def mean_difference_permutation(
    a: ArrayLike,
    b: ArrayLike,
    generator: np.random.Generator,
    *,
    permutations: int = 10_000,
    alternative: Alternative = "two-sided",
) -> Outcome:
    """Test whether two independent samples have one mean; the estimate is ``mean(a) - mean(b)``.

    ``p = (1 + permutations at least as extreme) / (1 + permutations)``.
    """
    first, second = as_numbers(a, "the first sample"), as_numbers(b, "the second sample")
    _check_count(permutations, "permutations")
    n, method = len(first) + len(second), f"difference of means, {alternative}, {permutations} permutations"
    if not len(first) or not len(second):
        return Outcome(method=method, n=n, reason="one of the two samples is empty")
    pooled = np.concatenate([first, second])
    weights = np.concatenate([np.full(len(first), 1 / len(first)), np.full(len(second), -1 / len(second))])
    difference = float(first.mean() - second.mean())
    drawn = _shuffled_products(pooled, weights, generator, permutations)
    return Outcome(
        method=method,
        n=n,
        estimate=difference,
        statistic=difference,
        p_value=_permutation_p(difference, drawn, alternative, scale=float(np.abs(pooled).max())),
    )


def _unit_ranks(a: Floats, b: Floats) -> tuple[Floats, Floats] | None:
    """Return the ranks of both, centred and of length one, so that their product is the correlation."""
    from scipy.stats import rankdata

    if len(a) < 2 or np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return None
    ranks = [rankdata(side) - (len(side) + 1) / 2 for side in (a, b)]
    return ranks[0] / math.sqrt(ranks[0] @ ranks[0]), ranks[1] / math.sqrt(ranks[1] @ ranks[1])


def _shuffled_products(values: Floats, weights: Floats, generator: np.random.Generator, permutations: int) -> Floats:
    """Return (permutations,) products of shuffled ``values`` (n,) with ``weights`` (n,), made chunk by chunk."""
    chunk = max(1, _CHUNK_NUMBERS // len(values))
    parts = []
    for start in range(0, permutations, chunk):
        rows = np.tile(values, (min(chunk, permutations - start), 1))
        parts.append(generator.permuted(rows, axis=1) @ weights)
    return np.concatenate(parts)


def _permutation_p(observed: float, drawn: Floats, alternative: str, scale: float = 1.0) -> float:
    slack = _TOLERANCE * scale
    if alternative == "two-sided":
        extreme = np.abs(drawn) >= abs(observed) - slack
    elif alternative == "greater":
        extreme = drawn >= observed - slack
    elif alternative == "less":
        extreme = drawn <= observed + slack
    else:
        raise UsageError(f"alternative must be two-sided, greater or less, got {alternative!r}")
    return float((1 + extreme.sum()) / (1 + len(drawn)))


def _check_count(count: int, name: str) -> None:
    if count < 1:
        raise UsageError(f"{name} must be at least 1, got {count}")
