"""The method's own part of the report: what became of the codes from epoch to epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qcore.methods.evidence import MissingEvidenceError

if TYPE_CHECKING:
    from qcore.methods import Evidence
    from qcore.runs.report import Section

__all__ = ["make_sections"]

SHOWN = ("true4bit", "no_clip", "fixed_scale", "plain", "lsq4", "w4a8", "w4a4", "resident", "resident_residual")
COLOURS = 8
TEXT = (
    "Each quantized layer has at most fifteen levels; how many it uses is up to the tails of its weights, since the "
    "scale follows the largest of them. The first figure shows the fewest levels of any layer, mean over folds and "
    "seeds: the paper's abstract says 15 throughout. The second shows the entropy of a code, mean over layers: four "
    "bits could carry 3.91, and an entropy coder would save the rest."
)


def make_sections(evidence: Evidence) -> list[Section]:
    """Return two figures over epochs, or nothing where no history tells of codes."""
    from qcore.runs.report import Section

    curves = {arm: found for arm in SHOWN if (found := _curves(evidence, arm))}
    if not curves:
        return []
    levels = {arm: [point["levels"] for point in curve] for arm, curve in curves.items()}
    entropy = {arm: [point["entropy"] for point in curve] for arm, curve in curves.items()}
    return [
        Section("Levels in use", text=TEXT, figure=_figure(levels, "fewest levels of a layer")),
        Section("Entropy of the codes", figure=_figure(entropy, "bits a code")),
    ]


def _curves(evidence: Evidence, arm: str) -> list[dict[str, float]]:
    """Return fewest levels and mean entropy by epoch, means over jobs."""
    try:
        jobs = [_watched(history) for history in evidence.histories(arm)]
    except (MissingEvidenceError, OSError):
        return []
    epochs = min(map(len, jobs), default=0)
    return [
        {key: sum(job[epoch][key] for job in jobs) / len(jobs) for key in ("levels", "entropy")}
        for epoch in range(epochs)
    ]


def _watched(history: Sequence[Mapping[str, Any]]) -> list[dict[str, float]]:
    watched = [list(row["observed"]["layers"].values()) for row in history if "observed" in row]
    return [
        {
            "levels": min(layer["levels"] for layer in layers),
            "entropy": sum(layer["entropy"] for layer in layers) / len(layers),
        }
        for layers in watched
    ]


def _figure(curves: Mapping[str, Sequence[float]], axis: str) -> dict[str, Any]:
    lines = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": arm,
            "x": list(range(1, len(curve) + 1)),
            "y": list(curve),
            "line": {"color": f"--s{number % COLOURS}", "dash": "dot" if number >= COLOURS else "solid"},
        }
        for number, (arm, curve) in enumerate(curves.items())
    ]
    layout = {"xaxis": {"title": {"text": "epoch"}}, "yaxis": {"title": {"text": axis}}, "showlegend": True}
    return {"data": lines, "layout": layout}
