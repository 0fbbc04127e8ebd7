"""The paper's statements as checks on a run's evidence, each with its margin and test, whichever way they go.

Thresholds are the abstract's figures (arXiv:2511.11743 v1 and v3); the tests are ours where the paper names none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from qcore.methods import Claim, Verdict
from qcore.methods.claim_library import better, equivalence, size_ratio
from qcore.methods.evidence import MissingEvidenceError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from numpy.typing import NDArray

    from qcore.methods import Evidence

__all__ = ["CURIOUS", "SOFTMAX", "flip_rate", "make_claims", "uncertainty_ranks"]

CURIOUS, SOFTMAX, FOUR, FLOAT, CASCADE = "moe_curiosity", "moe_softmax", "int4", "float", "cascade"
MARGIN = 0.01
COMPRESSION = 4.0
FLIPS = 0.01
PERMUTATIONS = 10_000
SEEDS_FOR_STABILITY = 5


def make_claims() -> list[Claim]:
    """Return the claims, in the order in which a reader of the abstract meets them."""
    return [
        equivalence(
            "q4_equals_float",
            FOUR,
            FLOAT,
            margin=MARGIN,
            metric="f1_weighted",
            family="parity",
            statement="one 4-bit network scores as the float network does, within 0.01 weighted F1",
        ),
        size_ratio(
            "q4_compression_fp32",
            FOUR,
            FLOAT,
            at_least=COMPRESSION,
            key="file_nbytes",
            family="size",
            statement="the file of a 4-bit network is at least 4 times smaller than in float32",
        ),
        Claim(
            "q4_compression_fp16",
            "the file of a 4-bit network is at least 4 times smaller than in float16",
            "size",
            _smaller_than_half,
        ),
        Claim(
            "routing_to_high_bits",
            "uncertain samples are sent to experts of more bits (Spearman(u, bits) > 0 on held-out samples)",
            "routing",
            _routing_to_high_bits,
        ),
        Claim(
            "curiosity_changes_routes",
            f"curiosity changes which expert takes at least {FLIPS:.0%} of held-out samples, against alpha = 0",
            "routing",
            _changes_routes,
        ),
        Claim(
            "curiosity_is_stable",
            "scores vary less over seeds with curiosity than with plain softmax routing",
            "stability",
            _stable,
        ),
        better("moe_beats_softmax_routing", CURIOUS, SOFTMAX, family="score"),
        better("moe_beats_q4", CURIOUS, FOUR, family="score"),
        better("moe_beats_cascade", CURIOUS, CASCADE, family="score"),
    ]


def flip_rate(evidence: Evidence) -> float:
    """Return the share of held-out samples whose expert is another one than with ``alpha = 0``, same network."""
    samples = evidence.samples(CURIOUS)
    if "expert_without_curiosity" not in samples:
        raise MissingEvidenceError(f"arm {CURIOUS!r} does not say what alpha = 0 would have done")
    return float(np.mean(samples["expert"] != samples["expert_without_curiosity"]))


def uncertainty_ranks(samples: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Return the ranks of the uncertainty within each fold and seed, in 0..1.

    Each network has its own scale of uncertainty, so that only an order within one network means anything.
    """
    from scipy.stats import rankdata

    ranks = np.empty(len(samples["uncertainty"]), dtype=np.float64)
    jobs = np.stack([samples["fold"], samples["seed"]], axis=1)
    for job in np.unique(jobs, axis=0):
        mask = (jobs == job).all(axis=1)
        ranks[mask] = rankdata(samples["uncertainty"][mask]) / mask.sum()
    return ranks


def _smaller_than_half(evidence: Evidence) -> Verdict:
    # No arm stores float16, so its file is the float32 one with two bytes less a parameter; names and header stay.
    half = evidence.size(FLOAT, "file_nbytes") - 2 * evidence.size(FLOAT, "parameters")
    ratio = half / evidence.size(FOUR, "file_nbytes")
    return Verdict(
        verdict="holds" if ratio >= COMPRESSION else "fails",
        value=ratio,
        test=f"ratio of file_nbytes, float counted at 2 bytes a parameter, at least {COMPRESSION:g}",
    )


def _routing_to_high_bits(evidence: Evidence) -> Verdict:
    from qcore.measure.statistics import spearman_permutation

    test = f"Spearman of u and bits within each network, one-sided, {PERMUTATIONS} permutations, held-out samples"
    samples = evidence.samples(CURIOUS)
    if "uncertainty" not in samples or "expert_bits" not in samples:
        raise MissingEvidenceError(f"arm {CURIOUS!r} has no uncertainty")
    # One seed alone: the same sample under another seed is no new sample.
    first = samples["seed"] == evidence.seeds[0]
    uncertainty, bits, folds = (samples[key][first] for key in ("uncertainty", "expert_bits", "fold"))
    if np.ptp(bits) == 0:
        return Verdict(verdict="fails", value=None, test=test, reason=f"every sample went to {bits[0]:g} bits")
    found = spearman_permutation(
        uncertainty,
        bits,
        evidence.generator("routing_to_high_bits"),
        permutations=PERMUTATIONS,
        alternative="greater",
        strata=folds,
    )
    return Verdict(
        verdict=None,
        value=found.statistic,
        test=test,
        reason=found.reason,
        p_value=found.p_value,
        needs_significance=True,
    )


def _changes_routes(evidence: Evidence) -> Verdict:
    rate = flip_rate(evidence)
    return Verdict(
        verdict="holds" if rate >= FLIPS else "fails",
        value=rate,
        test=f"share of held-out samples with another expert than at alpha = 0, same network, at least {FLIPS:g}",
    )


def _stable(evidence: Evidence) -> Verdict:
    from qcore.measure.statistics import bootstrap_log_variance_ratio, brown_forsythe, fold_residuals

    test = "Brown-Forsythe on scores less each fold's mean over seeds; bootstrap 95 % interval of log variance ratio"
    curious, softmax = evidence.scores(CURIOUS), evidence.scores(SOFTMAX)
    if len(evidence.seeds) < SEEDS_FOR_STABILITY:
        reason = f"{len(evidence.seeds)} seed(s); fewer than {SEEDS_FOR_STABILITY} cannot show it (--seeds 5)"
        return Verdict(verdict="untested", value=None, test=test, reason=reason)
    a, b = fold_residuals(curious), fold_residuals(softmax)
    if not (np.var(a) > 0 and np.var(b) > 0):
        return Verdict(verdict="untested", value=None, test=test, reason="scores do not vary over seeds")
    interval = bootstrap_log_variance_ratio(a, b, evidence.generator("curiosity_is_stable"))
    ratio = float(np.log(np.var(a) / np.var(b)))
    return Verdict(
        verdict="fails" if ratio >= 0 else None,
        value={"log_variance_ratio": ratio, "interval": list(interval.interval or ())},
        test=test,
        reason="scores vary no less with curiosity" if ratio >= 0 else None,
        p_value=brown_forsythe(a, b).p_value,
        needs_significance=True,
    )
