"""The paper's statements as checks on the evidence of a run, and those that it could not make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from qcore.methods import Claim, MissingEvidenceError, Verdict
from qcore.methods.claim_library import better, not_worse
from qcore_hetero_diffq.budget.sizes import Budget, parse_budget

if TYPE_CHECKING:
    from qcore.methods import Evidence
    from qcore_hetero_diffq.config import HeteroDiffqConfig

__all__ = ["budgeted_arms", "list_claims", "uniform_twin"]

MARGIN = 0.01
"""What the largest budget may cost, in accuracy."""

LIMITED = ("weights", "activations", "both")


def list_claims(labels: Sequence[str], chosen: str, other: str, config: HeteroDiffqConfig) -> list[Claim]:
    """Return the claims of arXiv:2206.07741 that a run can test, and that its budgets are kept.

    Args:
        labels: of the budgets, as in the names of arms.
        chosen: of the budget of the ablations.
        other: the penalty that the ablation has.
        config: of the method.
    """
    twins = [(label, twin) for label in labels if (twin := uniform_twin(label, config)) is not None]
    beats = [
        better(
            f"beats_{twin}",
            f"mixed_{label}",
            twin,
            family="equal bytes",
            statement=f"learned widths score better than one width for all in as many bytes ({twin})",
        )
        for label, twin in twins
    ]
    mine = f"mixed_{chosen}"
    ablations = [
        _ablation("channels", mine, f"tensor_{chosen}", "a width for each channel is better than one for each tensor"),
        _ablation("gradients", mine, f"ste_{chosen}", "modified gradients are better than straight-through ones"),
        _ablation("penalty", mine, f"{other}_{chosen}", f"this penalty is better than the {other} one"),
        _ablation("learning", mine, f"chosen_{chosen}", "learning widths is better than choosing them at the end"),
        _ablation("lsq", mine, f"lsq_{chosen}", "better than the widest width for all that fits (LSQ)"),
    ]
    largest = f"mixed_{max(map(parse_budget, config.limits), key=_size).label}"
    return [
        Claim("budgets_are_kept", "no network takes more bytes than its budget", "budget", _kept),
        Claim("budgets_are_spent", "and none leaves more than 2 % of it", "budget", partial(_spent, labels=labels)),
        Claim("widths_differ", "rows end with several widths, in every network", "widths", partial(_differ, arm=mine)),
        Claim(
            "more_bytes_help",
            "a larger budget scores no less, on the mean",
            "frontier",
            partial(_rises, labels=labels),
        ),
        *beats,
        *ablations,
        not_worse(
            "close_to_float",
            largest,
            "float_tuned",
            margin=MARGIN,
            metric="accuracy",
            family="parity",
            statement=f"{largest} loses at most {100 * MARGIN:g} point of accuracy to float trained as long",
        ),
    ]


def _size(budget: Budget) -> tuple[bool, float]:
    """Return what tells which of two budgets of one kind is larger."""
    return budget.nbytes is not None, float(budget.nbytes or budget.bits or 0)


def uniform_twin(label: str, config: HeteroDiffqConfig) -> str | None:
    """Return the arm of one width for all that takes as many bytes as the budget ``label``, or None."""
    bits = {"1_6bit": 2} | {f"{bits}bit": bits for bits in range(3, 9)}
    found = bits.get(label)
    return f"uniform{found}" if found in config.uniform and config.of == "weights" else None


def budgeted_arms(evidence: Evidence) -> list[str]:
    """Return the arms that were given a budget."""
    prefixes = ("mixed_", "tensor_", "ste_", "paper_", "lagrangian_", "chosen_", "lsq_")
    return [arm for arm in evidence.arms if arm.startswith(prefixes)]


def _ablation(name: str, mine: str, arm: str, statement: str) -> Claim:
    return better(f"{name}_help", mine, arm, family="ablation", statement=statement)


def _shares(evidence: Evidence, arms: Sequence[str]) -> dict[str, float]:
    """Return bytes taken over bytes allowed of each network; of files, the bytes on the disk."""
    found: dict[str, float] = {}
    for arm in arms:
        samples = evidence.samples(arm)
        for result in evidence.results(arm):
            own = (samples["fold"] == result["fold"]) & (samples["seed"] == result["seed"])
            for name in LIMITED:
                if f"limit_{name}" in samples:
                    limit = float(samples[f"limit_{name}"][own][0])
                    taken = _taken(samples, own, name, result)
                    found[f"{arm}, fold {result['fold']}, seed {result['seed']}, {name}"] = taken / limit
    if not found:
        raise MissingEvidenceError("no arm has a budget")
    return found


def _taken(samples: Mapping[str, Any], own: Any, name: str, result: Mapping[str, Any]) -> float:
    taken = float(samples[f"taken_{name}"][own][0])
    counted = samples.get("counts_file")
    is_file = name == "weights" and counted is not None and bool(counted[own][0])
    return max(taken, float(result["size"]["file_nbytes"])) if is_file else taken


def _kept(evidence: Evidence) -> Verdict:
    shares = _shares(evidence, budgeted_arms(evidence))
    over = [name for name, share in shares.items() if share > 1]
    test = f"largest share of a budget that any of {len(shares)} networks takes"
    reason = f"over: {'; '.join(over[:3])}" if over else None
    return Verdict(verdict="fails" if over else "holds", value=max(shares.values()), test=test, reason=reason)


def _spent(evidence: Evidence, *, labels: Sequence[str]) -> Verdict:
    shares = _shares(evidence, [f"mixed_{label}" for label in labels])
    least = min(shares.values())
    test = f"smallest share of a budget that any of {len(shares)} networks takes"
    return Verdict(verdict="holds" if least >= 0.98 else "fails", value=least, test=test)


def _differ(evidence: Evidence, *, arm: str) -> Verdict:
    told = [[row["observed"] for row in rows if "observed" in row] for rows in evidence.histories(arm)]
    if not told or not all(told):
        raise MissingEvidenceError(f"the run kept no widths of {arm}")
    fewest = min(len({width for counts in job[-1]["counts"].values() for width in counts}) for job in told)
    return Verdict(verdict="holds" if fewest > 1 else "fails", value=float(fewest), test="fewest widths of a network")


def _rises(evidence: Evidence, *, labels: Sequence[str]) -> Verdict:
    sign = 1 if evidence.higher_is_better else -1
    arms = sorted((f"mixed_{label}" for label in labels), key=lambda arm: evidence.size(arm, "file_nbytes"))
    if len(arms) < 2:
        raise MissingEvidenceError("it takes two budgets")
    means = [sign * float(evidence.scores(arm).mean()) for arm in arms]
    least = float(np.diff(means).min())
    test = "smallest gain of the mean score from one budget to the next"
    return Verdict(verdict="holds" if least >= 0 else "fails", value=least, test=test)
