"""The method's own part of the report: what curiosity did to the routes. Who took what is the core's chapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from qcore.methods.evidence import MissingEvidenceError
from qcore_curiosity_moe.claims import CURIOUS, SOFTMAX, flip_rate, uncertainty_ranks

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from qcore.methods import Evidence
    from qcore.runs.report import Section

__all__ = ["make_sections"]

BINS = 10


def make_sections(evidence: Evidence) -> list[Section]:
    """Return one section, or none where no arm was routed by uncertainty."""
    from qcore.runs.report import Section

    found = {arm: samples for arm in (SOFTMAX, CURIOUS) if "uncertainty" in (samples := _samples(evidence, arm))}
    if not found:
        return []
    curves = {arm: _by_uncertainty(samples) for arm, samples in found.items()}
    return [Section("What curiosity changed", text=_text(evidence, found), figure=_figure(curves))]


def _samples(evidence: Evidence, arm: str) -> dict[str, NDArray[Any]]:
    try:
        return evidence.samples(arm)
    except (MissingEvidenceError, OSError):
        return {}


def _by_uncertainty(samples: dict[str, NDArray[Any]]) -> dict[str, list[float]]:
    """Return mean bits, and the share of wrong answers, in bins of equal count from the surest samples to the least."""
    ranks = uncertainty_ranks(samples)
    bins = np.minimum((ranks * BINS).astype(int), BINS - 1)
    wrong = (samples["prediction"] != samples["target"]).astype(float)
    filled = [number for number in range(BINS) if (bins == number).any()]
    return {
        "x": [100 * (number + 0.5) / BINS for number in filled],
        "bits": [float(samples["expert_bits"][bins == number].mean()) for number in filled],
        "wrong": [float(wrong[bins == number].mean()) for number in filled],
    }


def _figure(curves: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    lines = []
    for number, (arm, curve) in enumerate(curves.items()):
        options = {"type": "scatter", "mode": "lines+markers", "x": curve["x"]}
        colour = f"--s{number}"
        lines.append({**options, "y": curve["bits"], "name": f"{arm}: bits", "line": {"color": colour}})
        dotted = {"color": colour, "dash": "dot"}
        lines.append({**options, "y": curve["wrong"], "name": f"{arm}: wrong", "yaxis": "y2", "line": dotted})
    layout = {
        "xaxis": {"title": {"text": "uncertainty of the route, percentile within its network"}},
        "yaxis": {"title": {"text": "mean bits"}},
        "yaxis2": {
            "title": {"text": "share of wrong answers"},
            "overlaying": "y",
            "side": "right",
            "rangemode": "tozero",
        },
    }
    return {"data": lines, "layout": layout}


def _text(evidence: Evidence, found: dict[str, dict[str, NDArray[Any]]]) -> str:
    lines = [f"{arm}: {_spent(samples)}" for arm, samples in found.items()]
    if CURIOUS in found:
        lines.append(
            f"Against alpha = 0 in the same networks, curiosity gave {100 * flip_rate(evidence):.1f} % of the held-out "
            "samples to another expert."
        )
    return "\n\n".join(lines)


def _spent(samples: dict[str, NDArray[Any]]) -> str:
    most = f"a network gave {100 * _largest_share(samples):.1f} % of its samples to the expert that it used most"
    return f"{samples['expert_bits'].mean():.2f} mean bits a held-out sample; {most}."


def _largest_share(samples: dict[str, NDArray[Any]]) -> float:
    """Return the share of its samples that a network gives to its favourite expert, mean over networks.

    Each fold and seed has its own network, and one network's favourite may be another's spare.
    """
    jobs, number = np.unique(np.stack([samples["fold"], samples["seed"]]), axis=1, return_inverse=True)
    experts = samples["expert"].astype(int)
    shares = [np.bincount(experts[number.ravel() == job]).max() for job in range(jobs.shape[1])]
    return float(np.sum(shares) / len(experts))
