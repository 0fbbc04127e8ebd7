"""The paper's statements as checks on the evidence of a run, and the evidence that only this method has."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from qcore.export.write import to_bytes
from qcore.measure.statistics import nadeau_bengio_t, per_fold
from qcore.methods import Claim, MissingEvidenceError, Verdict
from qcore.methods.claim_library import better, equivalence, not_worse, packed_equals_eval
from qcore.tensor import QTensor
from qcore_true4bit.observe import describe_codes, layer_codes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from qcore.methods import Evidence
    from qcore.registry import Registry

__all__ = ["MARGIN", "list_claims", "observe_codes"]

PAPER = "true4bit"
MARGIN = 0.005
"""Parity: half a point of accuracy, on the mean over seeds. The paper names no margin and quotes its baseline."""

RESIDENT_MARGIN = 0.02
"""What training without a float master may cost, in accuracy."""

FULL_WEIGHTS = 3_246_784
"""Quantized weights of the paper's network for ten classes."""

ABLATION = {
    "no_clip": "the soft clip",
    "fixed_scale": "the scale that follows the weights",
    "no_grad_clip": "the clipping of gradients",
}


def list_claims() -> list[Claim]:
    """Return the claims of arXiv:2603.13931 that a run can test, and those that it should have made."""
    parts = [
        better(f"{arm}_costs", PAPER, arm, metric="accuracy", family="ablation", statement=f"{what} helps (not {arm})")
        for arm, what in ABLATION.items()
    ]
    return [
        Claim("fifteen_levels", "after no epoch has a layer more than 15 levels or a top code but 7", "exact", _levels),
        Claim("all_fifteen_are_used", "at the end of training every layer uses exactly 15 levels", "exact", _all_used),
        packed_equals_eval(arms=("w4a8", "w4a4")),
        _parity("parity", PAPER, "float"),
        _parity("parity_with_clipped_twin", PAPER, "float_clip"),
        _parity("parity_with_8_bit_inputs", "w4a8", "float"),
        *parts,
        Claim("soft_clip_helps_most", "of the ablation, leaving out the soft clip costs most", "ablation", _most),
        better("beats_dorefa4", PAPER, "dorefa4", metric="accuracy", family="quality"),
        better("beats_lsq4", PAPER, "lsq4", metric="accuracy", family="quality"),
        better("beats_ptq4", PAPER, "ptq4", metric="accuracy", family="quality"),
        *(
            not_worse(
                f"{arm}_costs_little",
                arm,
                PAPER,
                margin=RESIDENT_MARGIN,
                metric="accuracy",
                family="resident",
                statement=f"{arm} loses at most {100 * RESIDENT_MARGIN:g} points of accuracy to {PAPER}",
            )
            for arm in ("resident", "resident_residual")
        ),
        Claim(
            "resident_training_takes_a_quarter",
            "weights and optimizer state of resident training take a quarter of the float arm's bytes, or less",
            "size",
            _memory,
        ),
        Claim("codes_are_8_times_smaller", "codes alone, two a byte, take an eighth of the weights", "size", _codes),
        Claim(
            "file_is_7_8_times_smaller",
            "the file, batch norms kept, is at least 7.8 times smaller than float's",
            "size",
            partial(_ratio, at_least=7.8),
        ),
        Claim(
            "folded_file_is_7_9_times_smaller",
            "the file, batch norms folded, is at least 7.9 times smaller than float's",
            "size",
            partial(_ratio, at_least=7.9, folded=True),
        ),
    ]


def observe_codes(model: nn.Module, registry: Registry | None = None) -> dict[str, float]:
    """Return what claims need to know of the quantized layers of ``model``; nothing if it has none.

    ``levels_least``, ``levels_most``: of the layers; ``top_least``, ``top_most``: of their largest codes; ``entropy``:
    bits of a code, mean over weights; ``codes_nbytes``: of the packed codes alone; ``half_bytes``: how many whole
    bytes so many half bytes a row fill; ``weights``: how many there are;
    ``folded_nbytes``: of the model's file with its batch norms folded.
    """
    coded = [codes for _, codes in layer_codes(model)]
    if not coded:
        return {}
    layers, packed = [describe_codes(codes) for codes in coded], [QTensor.pack(codes) for codes in coded]
    counts = [qtensor.rows * qtensor.cols for qtensor in packed]
    levels, tops = ([layer[key] for layer in layers] for key in ("levels", "top"))
    entropies = [layer["entropy"] for layer in layers]
    return {
        "levels_least": min(levels),
        "levels_most": max(levels),
        "top_least": min(tops),
        "top_most": max(tops),
        "entropy": float(np.average(entropies, weights=counts)),
        "codes_nbytes": float(sum(block.data.numel() for qtensor in packed for block in qtensor.blocks)),
        "half_bytes": float(sum(qtensor.rows * -(-qtensor.cols // 2) for qtensor in packed)),
        "weights": float(sum(counts)),
        "folded_nbytes": float(len(to_bytes(model, fold=True, registry=registry))),
    }


def _parity(claim_id: str, arm: str, baseline: str) -> Claim:
    statement = f"{arm} is as accurate as {baseline}, within {100 * MARGIN:g} points"
    return equivalence(claim_id, arm, baseline, margin=MARGIN, metric="accuracy", family="parity", statement=statement)


def _memory(evidence: Evidence) -> Verdict:
    held = [
        sum(sum(result["training_nbytes"].values()) for result in evidence.results(arm))
        for arm in ("resident", "resident_residual", "float")
    ]
    shares = {arm: nbytes / held[-1] for arm, nbytes in zip(("resident", "resident_residual"), held, strict=False)}
    return Verdict(
        verdict="holds" if max(shares.values()) <= 0.25 else "fails",
        value=shares,
        test="bytes of the tensors that training held, over those of the float arm: weights and two moments of AdamW",
    )


def _observed(evidence: Evidence, key: str, arm: str = PAPER) -> NDArray[np.float64]:
    samples = evidence.samples(arm)
    if key not in samples:
        raise MissingEvidenceError(f"the run kept no {key} of {arm}")
    return np.asarray(samples[key], dtype=np.float64)


def _levels(evidence: Evidence) -> Verdict:
    rows = [row["observed"]["layers"] for rows in evidence.histories(PAPER) for row in rows if "observed" in row]
    layers = [layer for row in rows for layer in row.values()]
    most = max([float(_observed(evidence, "levels_most").max()), *(layer["levels"] for layer in layers)])
    tops = {*_observed(evidence, "top_least"), *_observed(evidence, "top_most"), *(layer["top"] for layer in layers)}
    return Verdict(
        verdict="holds" if most <= 15 and tops == {7.0} else "fails",
        value=most,
        test=f"most levels of a layer, over all folds and {len(rows)} epochs",
    )


def _all_used(evidence: Evidence) -> Verdict:
    least = float(_observed(evidence, "levels_least").min())
    holds = least == 15 and float(_observed(evidence, "levels_most").max()) == 15
    return Verdict(verdict="holds" if holds else "fails", value=least, test="fewest levels of a layer, over all folds")


def _most(evidence: Evidence) -> Verdict:
    whole = evidence.scores(PAPER, "accuracy").mean()
    costs = {arm: float(whole - evidence.scores(arm, "accuracy").mean()) for arm in ABLATION}
    first, second = sorted(costs, key=lambda arm: costs[arm], reverse=True)[:2]
    test = "mean accuracy lost without each part; the two that cost most, paired t test, Nadeau-Bengio corrected"
    if first != "no_clip" or costs[first] <= 0:
        reason = f"leaving out {ABLATION[first]} costs more" if first != "no_clip" else "leaving it out costs nothing"
        return Verdict(verdict="fails", value=costs, test=test, reason=reason)
    differences = per_fold(evidence.scores(second, "accuracy") - evidence.scores(first, "accuracy"))
    found = nadeau_bengio_t(differences, *evidence.train_test_sizes())
    return Verdict(verdict=None, value=costs, test=test, p_value=found.p_value, needs_significance=True)


def _codes(evidence: Evidence) -> Verdict:
    nbytes = _observed(evidence, "codes_nbytes")
    ratio = float((4 * _observed(evidence, "weights") / nbytes).min())
    return Verdict(
        verdict="holds" if bool((nbytes == _observed(evidence, "half_bytes")).all()) and ratio >= 7.95 else "fails",
        value=ratio,
        test="half a byte a code, each row rounded up to whole bytes; scales and all else left out",
    )


def _ratio(evidence: Evidence, *, at_least: float, folded: bool = False) -> Verdict:
    own = float(_observed(evidence, "folded_nbytes").mean()) if folded else evidence.size(PAPER, "file_nbytes")
    ratio, weights = evidence.size("float", "file_nbytes") / own, float(_observed(evidence, "weights").max())
    test = f"ratio of the files' bytes, at least {at_least:g}"
    if weights < FULL_WEIGHTS:
        reason = f"it is about the full network; headers and norms of {weights:,.0f} weights weigh more"
        return Verdict(verdict="untested", value=ratio, test=test, reason=reason)
    return Verdict(verdict="holds" if ratio >= at_least else "fails", value=ratio, test=test)
