"""Summary: what the jobs of a run found together. Everything but times and energies follows from the jobs' files."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qcore.methods.claims import judge

if TYPE_CHECKING:
    from qcore.methods.evidence import Array, Evidence
    from qcore.runs.planning import Plan
    from qcore.runs.rundir import Run

__all__ = ["paired_differences", "paired_tests", "summarize"]


def summarize(plan: Plan, run: Run) -> dict[str, Any]:
    """Return the data of ``summary.json`` of a run whose jobs are all done.

    Scores are listed by seed, then by fold. ``nbytes`` is the file on disk; ``size`` has the other sizes. Only
    ``latency_us``, ``energy_j`` and ``times`` differ between two runs of the same config.
    """
    from qcore.runs.timing import measure_arms

    evidence, task = run.evidence(), plan.work.task
    measured = measure_arms(plan, run)
    baseline = next((arm.name for arm in plan.arms if arm.baseline), None)
    return {
        "schema": 1,
        "plugin": plan.config.plugin,
        "task": plan.config.task,
        "metric": task.metric,
        "higher_is_better": task.higher_is_better,
        "seeds": list(evidence.seeds),
        "folds": list(evidence.folds),
        "samples_n": len(task.data),
        "baseline": baseline,
        "arms": {
            arm.name: {
                "summary": arm.summary,
                "baseline": arm.baseline,
                **_arm(evidence, arm.name),
                **measured[arm.name],
            }
            for arm in plan.arms
        },
        "tests": [] if baseline is None else paired_tests(evidence, baseline),
        "claims": judge(plan.work.method.claims(), evidence),
        "warnings": [
            f"arm {result['arm']}, fold {result['fold']}, seed {result['seed']}: {line}"
            for result in evidence.data
            for line in result["extras"].get("warnings", ())
        ],
        "times": {"jobs_s": sum(result["times"]["total_s"] for result in evidence.data)},
    }


def paired_tests(evidence: Evidence, baseline: str) -> list[dict[str, Any]]:
    """Return a paired test of every other arm against ``baseline`` on the primary metric.

    The p values are those of the corrected t test, adjusted over the arms (Holm); Wilcoxon's, which knows no
    correction for overlapping training parts, stands beside.
    """
    others = [arm for arm in evidence.arms if arm != baseline]
    differences = [evidence.scores(arm) - evidence.scores(baseline) for arm in others]
    found = paired_differences(differences, evidence.train_test_sizes())
    named = {"baseline": baseline, "metric": evidence.metric}
    return [{"arm": arm, **named, **row} for arm, row in zip(others, found, strict=True)]


def paired_differences(differences: Sequence[Array], sizes: tuple[int, int]) -> list[dict[str, Any]]:
    """Test each of ``differences`` (seeds, folds), averaged over seeds, against zero; adjust the p values (Holm).

    Returns:
        A list of ``{"difference", "interval", "statistic", "p_value", "p_adjusted", "test", "reason", "wilcoxon_p"}``.
    """
    from qcore.measure.statistics import holm, nadeau_bengio_t, per_fold, wilcoxon

    rows: list[dict[str, Any]] = []
    for values in differences:
        found, ranks = nadeau_bengio_t(per_fold(values), *sizes), wilcoxon(per_fold(values))
        rows.append(
            {
                "difference": found.estimate,
                "interval": None if found.interval is None else list(found.interval),
                "statistic": found.statistic,
                "p_value": found.p_value,
                "p_adjusted": None,
                "test": found.method,
                "reason": found.reason,
                "wilcoxon_p": ranks.p_value,
            }
        )
    tested = [row for row in rows if row["p_value"] is not None]
    for row, adjusted in zip(tested, holm([row["p_value"] for row in tested]), strict=True):
        row["p_adjusted"] = adjusted
    return rows


def _arm(evidence: Evidence, arm: str) -> dict[str, Any]:
    results = evidence.results(arm)
    names = list(results[0]["scores"])
    scores = {name: _spread([result["scores"][name] for result in results]) for name in names}
    sizes = {key: _mean([result["size"][key] for result in results]) for key in results[0]["size"]}
    packed = [result["packed"] for result in results]
    return {
        "score": scores[evidence.metric],
        "scores": {name: {"mean": spread["mean"], "std": spread["std"]} for name, spread in scores.items()},
        "nbytes": sizes["file_nbytes"],
        "effective_bits": sizes["effective_bits"],
        "size": sizes,
        "epochs": _mean([result["epochs"] for result in results]),
        "packed": {
            "equal": all(found["equal"] for found in packed),
            "max_abs_difference": max(found["max_abs_difference"] for found in packed),
            "bound": max(found["bound"] for found in packed),
        },
        "routing": _routing(results),
    }


def _routing(results: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return for each mixture the samples that each expert saw, summed over jobs; None where nothing is routed."""
    found = [result["extras"]["routing"] for result in results if "routing" in result["extras"]]
    if not found:
        return None
    return {
        path: {
            part: [sum(counts) for counts in zip(*(one[path][part] for one in found), strict=True)]
            for part in found[0][path]
        }
        for path in found[0]
    }


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Return mean and sample standard deviation; null, never 0, where they are not known."""
    known = [value for value in values if value is not None]
    complete = len(known) == len(values)
    return {
        "mean": statistics.fmean(known) if known and complete else None,
        "std": statistics.stdev(known) if len(known) > 1 and complete else None,
        "values": list(values),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    if len(known) < len(values) or not known:
        return None
    mean = statistics.fmean(known)
    return int(mean) if mean.is_integer() else mean
