"""The method's own part of the report: widths over epochs, where they are, what they cost and why they moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qcore.methods.evidence import MissingEvidenceError

if TYPE_CHECKING:
    from qcore.methods import Evidence
    from qcore.runs.report import Section

__all__ = ["make_sections"]

LEARNED = ("nmpqat", "nmpqat_wa", "diffq")
WIDTHS = ("0", "1", "2", "4", "8", "16")

Rows = Sequence[Mapping[str, Any]]


def make_sections(evidence: Evidence) -> list[Section]:
    """Return the figures that the run's histories allow."""
    from qcore.runs.report import Section

    jobs = {arm: rows for arm in LEARNED if (rows := _observed(evidence, arm))}
    if not jobs:
        return []
    sections = [
        Section("Widths over epochs", text=_widths_text(jobs), figure=_over_epochs(jobs)),
        Section("How many neurons have which width", text=_SHARES, figure=_shares(next(iter(jobs.values())))),
        Section("Width of each neuron", text=_MAP, figure=_bit_map(next(iter(jobs.values()))[0][-1])),
        Section("Demand against width", text=_DEMAND, figure=_demand(next(iter(jobs.values())))),
    ]
    figure = _cost(evidence)
    return sections if figure is None else [*sections, Section("Score against width", text=_COST, figure=figure)]


_SHARES = (
    "Neurons by the width of their weights, all layers and networks together, after each epoch. Widths stand still in "
    "the last epochs, in which the weights settle."
)
_MAP = (
    "The first network at the end of training: a layer a line, a neuron a cell, sorted by width. Packed, the neurons "
    "of a hidden layer stand in this order too."
)
_DEMAND = (
    "Demand is a running mean of the loss's slope against a neuron's strength: above 0, more precision would lower the "
    "loss. Means over neurons of each width, as widths froze."
)
_COST = "Mean score over folds and seeds, with its standard deviation, against the mean width of a quantized weight."


def _observed(evidence: Evidence, arm: str) -> list[list[Mapping[str, Any]]]:
    """Return what each job of ``arm`` told after its epochs; the phase's name is added."""
    try:
        histories = evidence.histories(arm)
    except (MissingEvidenceError, OSError):
        return []
    jobs: list[list[Mapping[str, Any]]] = [
        [{**row["observed"], "phase": row["phase"]} for row in rows if "observed" in row] for rows in histories
    ]
    return [job for job in jobs if job]


def _widths_text(jobs: Mapping[str, Sequence[Rows]]) -> str:
    parts = []
    for arm, rows in jobs.items():
        last = [job[-1]["bits"] for job in rows]
        parts.append(f"{arm} ends with {np.mean(last):.3f} bits a weight (from {min(last):.3f} to {max(last):.3f})")
    prices = {arm: max(job[-1]["price"] for job in rows) for arm, rows in jobs.items()}
    priced = [arm for arm, price in prices.items() if price > 0]
    why = "Nothing but the loss moved them: more precision cost nothing."
    if priced:
        where = "" if len(priced) == len(prices) else f" of {' and '.join(priced)}"
        why = f"To keep the budget{where} a bit cost up to {max(prices.values()):.3g} of loss at the end."
    return "; ".join(parts) + ". " + why + " Dotted: activations."


def _over_epochs(jobs: Mapping[str, Sequence[Rows]]) -> dict[str, Any]:
    lines = []
    for number, (arm, rows) in enumerate(jobs.items()):
        lines.append(_line(arm, _mean([[row["bits"] for row in job] for job in rows]), number, "solid"))
        inputs = [[_mean_bits(row["activations"]) for row in job] for job in rows if job[0]["activations"]]
        if inputs:
            lines.append(_line(f"{arm}: activations", _mean(inputs), number, "dot"))
    layout = {"xaxis": {"title": {"text": "epoch"}}, "yaxis": {"title": {"text": "mean bits"}}, "showlegend": True}
    return {"data": lines, "layout": layout}


def _shares(rows: Sequence[Rows]) -> dict[str, Any]:
    epochs = min(map(len, rows))
    shown = [width for width in WIDTHS if any(_count(job[e], width) for job in rows for e in range(epochs))]
    areas = [
        {
            "type": "scatter",
            "mode": "lines",
            "stackgroup": "widths",
            "name": f"{width} bit" if width == "1" else f"{width} bits",
            "x": list(range(1, epochs + 1)),
            "y": [100 * float(np.mean([_count(job[e], width) for job in rows])) for e in range(epochs)],
            "line": {"color": f"--s{number}"},
        }
        for number, width in enumerate(shown)
    ]
    layout = {"xaxis": {"title": {"text": "epoch"}}, "yaxis": {"title": {"text": "neurons (%)"}}, "showlegend": True}
    return {"data": areas, "layout": layout}


def _bit_map(row: Mapping[str, Any]) -> dict[str, Any]:
    layers = {path: sorted(layer["widths"]) for path, layer in row["weights"].items() if "widths" in layer}
    longest = max(map(len, layers.values()), default=0)
    cells = [widths + [None] * (longest - len(widths)) for widths in layers.values()]
    heat = {
        "type": "heatmap",
        "z": cells,
        "y": list(layers),
        "zmin": 0,
        "zmax": 8,
        "colorscale": "Viridis",
        "hovertemplate": "%{y}, neuron %{x}: %{z} bits",
        "colorbar": {"title": {"text": "bits"}, "tickvals": [1, 2, 4, 8]},
    }
    axis = {"title": {"text": "neurons, sorted by width"}}
    return {"data": [heat], "layout": {"xaxis": axis, "yaxis": {"autorange": "reversed", "automargin": True}}}


def _demand(rows: Sequence[Rows]) -> dict[str, Any]:
    """Return the mean demand by width of each layer, means over jobs, as learning ended."""
    ends = [[row for row in job if row["phase"] == "learn"][-1] for job in rows]
    bars = []
    for number, path in enumerate(ends[0]["weights"]):
        told = [end["weights"][path]["demand"] for end in ends]
        shown = [width for width in WIDTHS if any(width in demand for demand in told)]
        means = [float(np.mean([demand[width] for demand in told if width in demand])) for width in shown]
        bars.append({"type": "bar", "name": path, "x": shown, "y": means, "marker": {"color": f"--s{number % 8}"}})
    layout = {
        "barmode": "group",
        "showlegend": True,
        "xaxis": {"title": {"text": "width (bits)"}, "type": "category"},
        "yaxis": {"title": {"text": "mean demand"}},
    }
    return {"data": bars, "layout": layout}


def _cost(evidence: Evidence) -> dict[str, Any] | None:
    points = []
    for number, arm in enumerate(evidence.arms):
        try:
            scores, bits = evidence.scores(arm), evidence.samples(arm).get("weight_bits")
        except (MissingEvidenceError, OSError):
            continue
        if bits is not None:
            points.append(
                {
                    "type": "scatter",
                    "mode": "markers+text",
                    "name": arm,
                    "text": [arm],
                    "textposition": "top center",
                    "x": [float(np.mean(bits))],
                    "y": [float(np.mean(scores))],
                    "error_y": {"type": "data", "array": [float(np.std(scores))]},
                    "marker": {"color": f"--s{number % 8}", "size": 9},
                }
            )
    if not points:
        return None
    layout = {
        "showlegend": False,
        "xaxis": {"title": {"text": "mean bits of a quantized weight"}},
        "yaxis": {"title": {"text": evidence.metric}},
    }
    return {"data": points, "layout": layout}


def _count(row: Mapping[str, Any], width: str) -> float:
    """Return the share of neurons of this width."""
    counts = [layer["counts"] for layer in row["weights"].values()]
    return float(sum(count.get(width, 0) for count in counts) / sum(sum(count.values()) for count in counts))


def _mean_bits(layers: Mapping[str, Any]) -> float:
    return float(np.mean([layer["bits"] for layer in layers.values()]))


def _mean(curves: Sequence[Sequence[float]]) -> list[float]:
    epochs = min(map(len, curves))
    return [float(np.mean([curve[e] for curve in curves])) for e in range(epochs)]


def _line(name: str, values: Sequence[float], number: int, dash: str) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": name,
        "x": list(range(1, len(values) + 1)),
        "y": list(values),
        "line": {"color": f"--s{number}", "dash": dash},
    }
