"""The report's other figures, as plotly data: plain dictionaries, so that no plotting library is imported.

Colours are written as ``"--name"`` and looked up in the page's style, light or dark.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["arm_colour", "bits_histogram", "learning_curves", "mean_curve", "uncertainty_boxes"]

COLOURS = 8
DASHES = ("solid", "dot", "dash", "dashdot")


def arm_colour(index: int) -> str:
    """Return the colour of the arm at ``index``; after eight arms the colours repeat."""
    return f"--s{index % COLOURS}"


def mean_curve(curves: Sequence[Sequence[float | None]]) -> list[float | None]:
    """Return the mean by epoch over jobs, while at least half of them are still training.

    Later epochs would compare the slow jobs of one arm with all jobs of another.
    """
    enough = max(1, (len(curves) + 1) // 2)
    means: list[float | None] = []
    for epoch in range(max(map(len, curves), default=0)):
        alive = [curve[epoch] for curve in curves if epoch < len(curve)]
        if len(alive) < enough:
            break
        values = [value for value in alive if value is not None]
        means.append(sum(values) / len(values) if values else None)
    return means


def learning_curves(curves: Mapping[str, Sequence[float | None]], metric: str, colours: Mapping[str, int]) -> Any:
    """Return one line an arm: the mean validation score by epoch."""
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": arm,
            "x": list(range(1, len(curve) + 1)),
            "y": list(curve),
            "line": {
                "color": arm_colour(colours[arm]),
                "dash": DASHES[colours[arm] // COLOURS % len(DASHES)],
                "width": 2,
            },
            "hovertemplate": "epoch %{x}: %{y:.4f}",
        }
        for arm, curve in curves.items()
    ]
    return {
        "data": traces,
        "layout": {
            "hovermode": "x unified",
            "showlegend": True,
            "xaxis": {"title": {"text": "epoch"}, "rangemode": "tozero"},
            "yaxis": {"title": {"text": f"validation {metric}"}},
        },
    }


def uncertainty_boxes(arms: Mapping[str, Mapping[str, Sequence[float]]], colours: Mapping[str, int]) -> Any:
    """Return boxes of uncertainty by the expert chosen.

    Args:
        arms: for each arm, for each expert's label, five quantiles: 5, 25, 50, 75 and 95 %.
        colours: each arm's number, for its colour.
    """
    traces = [
        {
            "type": "box",
            "name": arm,
            "x": list(experts),
            **{
                key: [numbers[place] for numbers in experts.values()]
                for place, key in enumerate(("lowerfence", "q1", "median", "q3", "upperfence"))
            },
            "line": {"color": arm_colour(colours[arm]), "width": 1.5},
            "hoverinfo": "y+name",
        }
        for arm, experts in arms.items()
    ]
    return {
        "data": traces,
        "layout": {
            "boxmode": "group",
            "showlegend": len(traces) > 1,
            "legend": {"orientation": "h", "y": 1.12},
            "xaxis": {"title": {"text": "expert chosen"}, "type": "category"},
            "yaxis": {"title": {"text": "uncertainty (nats)"}, "rangemode": "tozero"},
        },
    }


def bits_histogram(arms: Mapping[str, Mapping[float, float]], colours: Mapping[str, int]) -> Any:
    """Return bars of the share of samples that ran at each number of bits, one group of bars an arm."""
    widths = sorted({bits for shares in arms.values() for bits in shares})
    traces = [
        {
            "type": "bar",
            "name": arm,
            "x": [f"{bits:g}" for bits in widths],
            "y": [100 * shares.get(bits, 0.0) for bits in widths],
            "marker": {"color": arm_colour(colours[arm])},
            "hovertemplate": "%{x} bits: %{y:.1f} %",
        }
        for arm, shares in arms.items()
    ]
    return {
        "data": traces,
        "layout": {
            "barmode": "group",
            "bargap": 0.35,
            "showlegend": len(traces) > 1,
            "legend": {"orientation": "h", "y": 1.12},
            "xaxis": {"title": {"text": "bits of the expert chosen"}, "type": "category"},
            "yaxis": {"title": {"text": "share of samples (%)"}, "rangemode": "tozero"},
        },
    }
