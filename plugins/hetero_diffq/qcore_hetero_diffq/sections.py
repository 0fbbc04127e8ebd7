"""The method's own part of the report: the frontier, what became of the widths, and what is forgotten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qcore.methods.evidence import MissingEvidenceError
from qcore_hetero_diffq.forgetting import Forgetting, look_back

if TYPE_CHECKING:
    from qcore.methods import Evidence
    from qcore.runs.report import Section

__all__ = ["make_sections"]

FRONTIER = (
    "Mean score over folds and seeds, with its standard deviation, against the bytes of the model file. The line joins "
    "the method's budgets; crosses are one width for all, the other points are ablations. Every budget is kept by "
    "construction: the last phase begins with a choice of widths whose file was made and measured."
)
WIDTHS = (
    "Mean bits of a weight's stored code after each epoch, first while widths are learned, then after the choice that "
    "keeps the budget; mean over folds and seeds."
)
MAP = "Rows of each layer by their width in the first network of {arm}: a layer a line, rows sorted by width."
INPUTS = (
    "Inputs with more than 4 bits run as 8-bit integers; narrower ones are counted as narrow and run as 8-bit integers "
    "too. Inputs that no budget limits keep the width they were given."
)


def make_sections(evidence: Evidence, labels: Sequence[str]) -> list[Section]:
    """Return the figures that the run's evidence allows."""
    from qcore.runs.report import Section

    arms = [f"mixed_{label}" for label in labels if f"mixed_{label}" in evidence.arms]
    sections = []
    frontier = _frontier(evidence, arms)
    if frontier is not None:
        sections.append(Section("Score against bytes", text=FRONTIER, figure=frontier))
    told = {arm: jobs for arm in arms if (jobs := _observed(evidence, arm))}
    if told:
        arm = next(iter(told))
        sections += [
            Section("Widths over epochs", text=WIDTHS, figure=_over_epochs(told)),
            Section("Width of each row", text=f"{MAP.format(arm=arm)} {INPUTS}", figure=_bit_map(told[arm][0])),
        ]
    lost = look_back(evidence, arms)
    return sections if lost is None else [*sections, *_forgetting(lost)]


def _observed(evidence: Evidence, arm: str) -> list[list[Mapping[str, Any]]]:
    try:
        histories = evidence.histories(arm)
    except (MissingEvidenceError, OSError):
        return []
    jobs = [[row["observed"] for row in rows if "observed" in row] for rows in histories]
    return [job for job in jobs if job]


def _frontier(evidence: Evidence, arms: Sequence[str]) -> dict[str, Any] | None:
    points: dict[str, tuple[float, float, float]] = {}
    for arm in evidence.arms:
        try:
            scores = evidence.scores(arm)
            points[arm] = (evidence.size(arm, "file_nbytes") / 1000, float(scores.mean()), float(scores.std()))
        except MissingEvidenceError:
            continue
    quantized = {arm: point for arm, point in points.items() if not arm.startswith("float")}
    if not quantized:
        return None
    uniform = [arm for arm in quantized if arm.startswith("uniform")]
    rest = [arm for arm in quantized if arm not in uniform and arm not in arms]
    mine = sorted((arm for arm in arms if arm in quantized), key=lambda arm: quantized[arm][0])
    data = [
        _points("learned widths", mine, quantized, "--s0", "lines+markers+text", "circle"),
        _points("one width for all", uniform, quantized, "--s1", "markers+text", "x"),
        _points("ablations", rest, quantized, "--s2", "markers+text", "diamond"),
    ]
    shapes = [
        {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": y, "y1": y, "line": {"dash": "dot", "width": 1}}
        for y in (points[arm][1] for arm in ("float", "float_tuned") if arm in points)
    ]
    layout = {
        "showlegend": True,
        "shapes": shapes,
        "xaxis": {"title": {"text": "model file (kB); dotted: the float networks"}, "type": "log"},
        "yaxis": {"title": {"text": evidence.metric}},
    }
    return {"data": [line for line in data if line["x"]], "layout": layout}


def _points(
    name: str,
    arms: Sequence[str],
    points: Mapping[str, tuple[float, float, float]],
    colour: str,
    mode: str,
    symbol: str,
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": mode,
        "name": name,
        "text": list(arms),
        "textposition": "top center",
        "x": [points[arm][0] for arm in arms],
        "y": [points[arm][1] for arm in arms],
        "error_y": {"type": "data", "array": [points[arm][2] for arm in arms]},
        "marker": {"color": colour, "size": 9, "symbol": symbol},
        "line": {"color": colour},
    }


def _over_epochs(told: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> dict[str, Any]:
    lines = []
    for number, (arm, jobs) in enumerate(told.items()):
        epochs = min(map(len, jobs))
        lines.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": arm,
                "x": list(range(1, epochs + 1)),
                "y": [float(np.mean([job[epoch]["bits"] for job in jobs])) for epoch in range(epochs)],
                "line": {"color": f"--s{number % 8}"},
            }
        )
    layout = {"showlegend": True, "xaxis": {"title": {"text": "epoch"}}, "yaxis": {"title": {"text": "bits a weight"}}}
    return {"data": lines, "layout": layout}


def _bit_map(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Draw the widths that were told last: those of the last phase, or of the mixed one if there is no other."""
    last: Mapping[str, Sequence[int]] = next((row["widths"] for row in reversed(rows) if "widths" in row), {})
    layers = {path: sorted(widths) for path, widths in last.items()}
    longest = max(map(len, layers.values()), default=0)
    heat = {
        "type": "heatmap",
        "z": [widths + [None] * (longest - len(widths)) for widths in layers.values()],
        "y": list(layers),
        "zmin": 1,
        "zmax": 8,
        "colorscale": "Viridis",
        "hovertemplate": "%{y}, row %{x}: %{z} bits",
        "colorbar": {"title": {"text": "bits"}},
    }
    axis = {"title": {"text": "rows, sorted by width"}}
    return {"data": [heat], "layout": {"xaxis": axis, "yaxis": {"autorange": "reversed", "automargin": True}}}


def _forgetting(lost: Forgetting) -> list[Section]:
    from qcore.runs.report import Section

    recall = {
        "type": "heatmap",
        "z": [[100 * value for value in row] for row in lost.recall_change],
        "x": list(lost.classes),
        "y": list(lost.arms),
        "colorscale": "RdBu",
        "zmid": 0,
        "colorbar": {"title": {"text": "points"}},
        "hovertemplate": "%{y}, class %{x}: %{z:.1f} points",
    }
    overlap = {
        "type": "heatmap",
        "z": [list(row) for row in lost.overlap],
        "x": list(lost.arms),
        "y": list(lost.arms),
        "zmin": 0,
        "zmax": 1,
        "colorscale": "Viridis",
        "hovertemplate": "%{y} and %{x}: %{z:.2f}",
    }
    shares = ", ".join(f"{arm} {100 * share:.2f} %" for arm, share in zip(lost.arms, lost.forgotten, strict=True))
    calibration = ", ".join(f"{arm} {ece:.4f}" for arm, ece in lost.calibration.items())
    text = (
        "Samples that the float network gets right and the quantized one of the same fold and seed gets wrong, as a "
        f"share of all: {shares}. What is lost at one budget is lost at another as far as the map of overlaps says "
        f"(shared over all that either loses; chance would give {lost.chance:.2f} on the mean). Expected calibration "
        f"error: {calibration}."
    )
    change = "Change of a class's recall against the float network, in points: which classes pay for the bytes."
    axis = {"type": "category", "automargin": True}
    return [
        Section(
            "What it forgets: samples", text=text, figure={"data": [overlap], "layout": {"xaxis": axis, "yaxis": axis}}
        ),
        Section(
            "What it forgets: classes", text=change, figure={"data": [recall], "layout": {"xaxis": axis, "yaxis": axis}}
        ),
    ]
