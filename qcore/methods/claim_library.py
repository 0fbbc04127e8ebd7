"""Claims that many papers make, ready to use."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np

from qcore.methods.claims import Claim, Verdict
from qcore.methods.evidence import Evidence, MissingEvidenceError

__all__ = ["better", "equivalence", "not_worse", "packed_equals_eval", "size_ratio"]


def equivalence(
    claim_id: str,
    arm: str,
    baseline: str,
    *,
    margin: float,
    metric: str | None = None,
    family: str = "accuracy",
    statement: str | None = None,
) -> Claim:
    """Return the claim that ``arm`` scores as ``baseline`` does, within ``margin``.

    The margin is in units of the metric; for an error, of which less is better, it is a share of the baseline's mean.

    The test is two one-sided t tests on the paired differences of folds, each the mean over its seeds, with the
    variance correction of Nadeau and Bengio (2003) for overlapping training parts.
    """
    text = statement or f"{arm} equals {baseline} within {margin:g}"
    return Claim(claim_id, text, family, partial(_equivalent, arm=arm, baseline=baseline, margin=margin, metric=metric))


def better(
    claim_id: str,
    arm: str,
    baseline: str,
    *,
    metric: str | None = None,
    family: str = "accuracy",
    statement: str | None = None,
) -> Claim:
    """Return the claim that ``arm`` scores better than ``baseline`` (corrected paired t test, two-sided)."""
    text = statement or f"{arm} scores better than {baseline}"
    return Claim(claim_id, text, family, partial(_better, arm=arm, baseline=baseline, metric=metric))


def not_worse(
    claim_id: str,
    arm: str,
    baseline: str,
    *,
    margin: float,
    metric: str | None = None,
    family: str = "accuracy",
    statement: str | None = None,
) -> Claim:
    """Return the claim that ``arm`` scores less than ``margin`` worse than ``baseline``, or better.

    The test is one-sided (non-inferiority): a paired t test of the differences plus the margin, as :func:`equivalence`
    pairs and corrects them.
    """
    text = statement or f"{arm} is at most {margin:g} worse than {baseline}"
    check = partial(_not_worse, arm=arm, baseline=baseline, margin=margin, metric=metric)
    return Claim(claim_id, text, family, check)


def size_ratio(
    claim_id: str,
    arm: str,
    baseline: str,
    *,
    at_least: float,
    key: str = "weight_nbytes",
    baseline_share: float = 1.0,
    family: str = "size",
    statement: str | None = None,
) -> Claim:
    """Return the claim that ``baseline`` takes at least ``at_least`` times the bytes of ``arm``.

    Args:
        claim_id: its id.
        arm: the smaller arm.
        baseline: the larger arm.
        at_least: the ratio that makes it hold.
        key: which size: ``weight_nbytes``, ``file_nbytes`` or ``memory_nbytes``, all bytes that exist.
        baseline_share: counts only this share of the baseline: 0.5 compares a float32 arm as if in float16.
        family: its family.
        statement: the sentence, if the default does not serve.
    """
    text = statement or f"{baseline} takes at least {at_least:g} times the bytes of {arm}"
    check = partial(_smaller, arm=arm, baseline=baseline, at_least=at_least, key=key, share=baseline_share)
    return Claim(claim_id, text, family, check)


def packed_equals_eval(
    claim_id: str = "packed_equals_eval", arms: tuple[str, ...] | None = None, *, family: str = "exact"
) -> Claim:
    """Return the claim that the saved and loaded models of ``arms`` give the logits of eval mode, bit for bit.

    Name the arms whose sums are all integer, where some are not; None means every arm.
    """
    where = "in every arm" if arms is None else f"in {', '.join(arms)}"
    check = partial(_packed, arms=arms)
    return Claim(claim_id, f"packed logits equal eval logits bit for bit, {where}", family, check)


def _packed(evidence: Evidence, *, arms: tuple[str, ...] | None) -> Verdict:
    results = [result for arm in arms or evidence.arms for result in evidence.results(arm)]
    different = [f"{r['arm']}, fold {r['fold']}, seed {r['seed']}" for r in results if not r["packed"]["equal"]]
    worst = max(float(result["packed"]["max_abs_difference"]) for result in results)
    return Verdict(
        verdict="fails" if different else "holds",
        value=worst,
        test=f"largest difference of a test logit over {len(results)} saved and loaded models",
        reason=f"different: {'; '.join(different[:3])}" if different else None,
    )


def _differences(evidence: Evidence, arm: str, baseline: str, metric: str | None) -> tuple[list[float], str]:
    from qcore.measure.statistics import per_fold

    differences = per_fold(evidence.scores(arm, metric) - evidence.scores(baseline, metric))
    if differences.size < 2:
        raise MissingEvidenceError("it takes at least two folds or seeds")
    if not np.isfinite(differences).all():
        raise MissingEvidenceError("a score is missing")
    return [float(value) for value in differences], metric or evidence.metric


def _equivalent(evidence: Evidence, *, arm: str, baseline: str, margin: float, metric: str | None) -> Verdict:
    from qcore.measure.statistics import tost

    differences, name = _differences_for(evidence, arm, baseline, margin, metric)
    train_n, test_n = evidence.train_test_sizes()
    error = not evidence.higher_is_better
    width = margin * float(evidence.scores(baseline, metric).mean()) if error else margin
    shown = f"{margin:.2g} of {baseline}'s mean" if error else f"{margin:g}"
    found = tost(differences, width, train_n=train_n, test_n=test_n)
    verdict = Verdict(
        verdict=None,
        value=float(np.mean(differences)),
        test=f"TOST on {name}, margin {shown}, {_pairs(evidence)}, Nadeau-Bengio corrected",
        p_value=found.p_value,
        needs_significance=True,
    )
    return _unless_alike(verdict, differences)


def _not_worse(evidence: Evidence, *, arm: str, baseline: str, margin: float, metric: str | None) -> Verdict:
    from qcore.measure.statistics import nadeau_bengio_t

    differences, name = _differences_for(evidence, arm, baseline, margin, metric)
    train_n, test_n = evidence.train_test_sizes()
    sign = 1 if evidence.higher_is_better else -1
    room = [sign * difference + margin for difference in differences]
    found = nadeau_bengio_t(room, train_n, test_n)
    half = None if found.p_value is None else found.p_value / 2
    verdict = Verdict(
        verdict=None,
        value=float(np.mean(differences)),
        test=f"one-sided t test on {name}, margin {margin:g}, {_pairs(evidence)}, Nadeau-Bengio corrected",
        p_value=half if half is None or np.mean(room) > 0 else 1 - half,
        needs_significance=True,
    )
    return _unless_alike(verdict, differences)


def _differences_for(
    evidence: Evidence, arm: str, baseline: str, margin: float, metric: str | None
) -> tuple[list[float], str]:
    """Return paired differences for a test against ``margin``, and the metric's name.

    Raises:
        MissingEvidenceError: equal accuracies would mean nothing.
    """
    differences, name = _differences(evidence, arm, baseline, metric)
    if name == "accuracy":
        _check_resolution(evidence, baseline, margin, evidence.train_test_sizes()[1])
    return differences, name


def _unless_alike(found: Verdict, differences: list[float]) -> Verdict:
    """Return ``found``, untested if all differences are equal."""
    if len(set(differences)) > 1:
        return found
    reason = "all differences are equal, so they tell of no spread: more seeds or folds would"
    return replace(found, verdict="untested", reason=reason)


def _pairs(evidence: Evidence) -> str:
    """Return what varies among the pairs of a test."""
    return "pairs of folds" if len(evidence.folds) > 1 else "pairs of seeds on one split: the spread of training alone"


def _check_resolution(evidence: Evidence, baseline: str, margin: float, test_n: int) -> None:
    """Raise MissingEvidenceError where equal accuracies would mean nothing.

    The test part is so small that one sample outweighs the margin, or the baseline has learned no more than the
    largest class.
    """
    if test_n * margin < 1:
        raise MissingEvidenceError(f"one of {test_n} test samples weighs more than the margin of {margin:g}")
    samples = evidence.samples(baseline)
    if "target" in samples:
        largest = float(np.unique(samples["target"], return_counts=True)[1].max() / len(samples["target"]))
        if float(evidence.scores(baseline, "accuracy").mean()) <= largest + margin:
            raise MissingEvidenceError(f"{baseline} is no better than naming the largest class ({largest:.3f})")


def _better(evidence: Evidence, *, arm: str, baseline: str, metric: str | None) -> Verdict:
    from qcore.measure.statistics import nadeau_bengio_t

    differences, name = _differences(evidence, arm, baseline, metric)
    train_n, test_n = evidence.train_test_sizes()
    found = nadeau_bengio_t(differences, train_n, test_n)
    mean = float(np.mean(differences))
    worse = mean <= 0 if evidence.higher_is_better else mean >= 0
    return Verdict(
        verdict="fails" if worse else None,
        value=mean,
        test=f"paired t test on {name}, Nadeau-Bengio corrected",
        reason="it does not score better" if worse else None,
        p_value=found.p_value,
        needs_significance=True,
    )


def _smaller(evidence: Evidence, *, arm: str, baseline: str, at_least: float, key: str, share: float) -> Verdict:
    ratio = share * evidence.size(baseline, key) / evidence.size(arm, key)
    of = "" if share == 1.0 else f", {share:g} of {baseline}"
    return Verdict(
        verdict="holds" if ratio >= at_least else "fails",
        value=ratio,
        test=f"ratio of {key}{of}, at least {at_least:g}",
    )
