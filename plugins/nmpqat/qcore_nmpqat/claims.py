"""The paper's statements as checks on the evidence of a run, and those that it should have been asked."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from qcore.methods import Claim, MissingEvidenceError, Verdict
from qcore.methods.claim_library import better, not_worse, size_ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcore.methods import Evidence

__all__ = ["BUDGET_MARGIN", "list_claims"]

MARGIN = 0.01
"""What weights of few bits may cost, in accuracy: the paper speaks of 0.05 to 1 %."""

BUDGET_MARGIN = 0.05
"""Bits by which a network may miss its budget."""

MOST_BITS = 2.42
"""The most weight bits that the paper says its networks need."""

UNIFORM = {"uniform1": "1 bit", "ternary": "ternary", "uniform2": "2 bits", "uniform4": "4 bits", "uniform8": "8 bits"}
ALLOCATIONS = {
    "lsq": "a width a layer with learned steps",
    "layerwise": "a width a layer",
    "random": "the same widths at random neurons",
    "oracle": "reverse water-filling",
}


def list_claims(budget: float | None = None, *, diffq: bool = False) -> list[Claim]:
    """Return the claims of arXiv:2605.25054 that a run can test, and those that it should have made."""
    uniform = [
        better(
            f"beats_{arm}", "nmpqat", arm, family="uniform", statement=f"nmpqat scores better than {what} throughout"
        )
        for arm, what in UNIFORM.items()
    ]
    allocations = [
        better(
            f"beats_{arm}",
            "nmpqat",
            arm,
            family="allocation",
            statement=f"nmpqat scores better than {what}, at the same mean width",
        )
        for arm, what in ALLOCATIONS.items()
    ]
    statement = "nmpqat scores better than training with noise (DiffQ), at the same mean width"
    noise = [better("beats_diffq", "nmpqat", "diffq", family="noise", statement=statement)]
    return [
        Claim("widths_move", "some neurons end above the lowest width, in every network", "widths", _move),
        Claim("most_stay_at_the_lowest", "most neurons stay at the lowest width", "widths", _stay),
        Claim("few_bits", f"no network needs more than {MOST_BITS} bits a weight", "widths", _few),
        Claim("activations_need_more", "activations take more bits than weights", "widths", _more),
        Claim("demand_tells_where", "neurons that widened had more demand than those that did not", "widths", _demand),
        *([] if budget is None else [_kept(budget)]),
        _close("close_to_float", "nmpqat"),
        _close("close_to_float_with_activations", "nmpqat_wa"),
        _close("uniform8_is_close_to_float", "uniform8"),
        _close("uniform4_is_close_to_float", "uniform4"),
        *uniform,
        *allocations,
        *(noise if diffq else ()),
        size_ratio(
            "file_is_smaller_than_2_bits",
            "nmpqat",
            "uniform2",
            at_least=1.0,
            key="file_nbytes",
            statement="the file, widths and scales included, is no larger than that of 2 bits throughout",
        ),
    ]


def _close(claim_id: str, arm: str) -> Claim:
    statement = f"{arm} loses at most {100 * MARGIN:g} point of accuracy to float"
    return not_worse(claim_id, arm, "float", margin=MARGIN, metric="accuracy", family="parity", statement=statement)


def _kept(budget: float) -> Claim:
    statement = f"every network ends within {BUDGET_MARGIN:g} bits of its budget of {budget:g} bits a weight"
    return Claim("budget_is_met", statement, "budget", partial(_budget, budget=budget))


def _observed(evidence: Evidence, key: str, arm: str = "nmpqat") -> NDArray[np.float64]:
    samples = evidence.samples(arm)
    if key not in samples:
        raise MissingEvidenceError(f"the run kept no {key} of {arm}")
    return np.asarray(samples[key], dtype=np.float64)


def _move(evidence: Evidence) -> Verdict:
    most = float(_observed(evidence, "at_lowest").max())
    test = "the largest share of neurons at the lowest width, over all networks"
    return Verdict(verdict="holds" if most < 1 else "fails", value=most, test=test)


def _stay(evidence: Evidence) -> Verdict:
    least = float(_observed(evidence, "at_lowest").min())
    test = "the smallest share of neurons at the lowest width, over all networks"
    return Verdict(verdict="holds" if least > 0.5 else "fails", value=least, test=test)


def _few(evidence: Evidence) -> Verdict:
    most = float(_observed(evidence, "neuron_bits").max())
    test = "the largest mean width of a neuron, over all networks"
    return Verdict(verdict="holds" if most <= MOST_BITS else "fails", value=most, test=test)


def _more(evidence: Evidence) -> Verdict:
    weights, inputs = (_observed(evidence, key, "nmpqat_wa") for key in ("neuron_bits", "activation_bits"))
    test = "smallest difference of the mean widths, over all networks; activations begin at 4 bits"
    least = float((inputs - weights).min())
    return Verdict(verdict="holds" if least > 0 else "fails", value=least, test=test)


def _demand(evidence: Evidence) -> Verdict:
    """Compare, layer by layer, the demand of neurons that widened with that of the others, as learning ended."""
    differences = []
    for history in evidence.histories("nmpqat"):
        told = [row["observed"]["weights"] for row in history if row["phase"] == "learn" and "observed" in row]
        for layer in (told[-1] if told else {}).values():
            widths, demands = np.asarray(layer.get("widths", ())), np.asarray(layer.get("demands", ()))
            wide = widths > widths.min(initial=9)
            if wide.any() and not wide.all():
                differences.append(float(np.median(demands[wide]) - np.median(demands[~wide])))
    if not differences:
        raise MissingEvidenceError("no layer has neurons of several widths")
    share = float(np.mean(np.asarray(differences) > 0))
    test = f"share of {len(differences)} layers in which the median demand of wide neurons is above that of the others"
    return Verdict(verdict="holds" if share > 0.5 else "fails", value=share, test=test)


def _budget(evidence: Evidence, *, budget: float) -> Verdict:
    off = float(np.abs(_observed(evidence, "weight_bits") - budget).max())
    return Verdict(
        verdict="holds" if off <= BUDGET_MARGIN else "fails", value=off, test="largest miss, in bits a weight"
    )
