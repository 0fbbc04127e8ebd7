"""Score against bytes: which arms no other arm beats, and the picture of it, static and interactive.

Both pictures share one geometry, so that labels that do not collide in one do not collide in the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from qcore.runs.report.page import Html, escape

__all__ = ["Point", "front", "pareto_figure", "pareto_svg"]

WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 20, 16, 52
LETTER, LINE = 7.0, 16
"""Estimated width and height in pixels of a letter of a label."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """An arm: bytes on disk, mean score and the ends of its interval (equal to the mean where there is none)."""

    name: str
    nbytes: float
    mean: float
    low: float
    high: float


def front(points: Sequence[Point], *, higher_is_better: bool = True) -> list[Point]:
    """Return the points that no other point beats in bytes and score at once, smallest first."""
    sign = 1.0 if higher_is_better else -1.0
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.nbytes, -sign * p.mean)):
        if not kept or sign * point.mean > sign * kept[-1].mean:
            kept.append(point)
    return kept


@dataclass(frozen=True)
class _Scale:
    """The axes: log10 of kilobytes across, score up."""

    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def around(cls, points: Sequence[Point]) -> _Scale:
        logs = [math.log10(p.nbytes / 1000) for p in points]
        low, high = _score_range(points)
        pad_x = max(0.08 * (max(logs) - min(logs)), 0.06)
        pad_y = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
        return cls((min(logs) - pad_x, max(logs) + 1.6 * pad_x), (low - pad_y, high + pad_y))

    def place(self, nbytes: float, score: float) -> tuple[float, float]:
        across = (math.log10(nbytes / 1000) - self.x[0]) / (self.x[1] - self.x[0])
        up = (score - self.y[0]) / (self.y[1] - self.y[0])
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def x_ticks(self) -> list[float]:
        """Return round numbers of kilobytes: 1, 2, 5, 10, ... and more where the span is short."""
        low, high = 10 ** self.x[0], 10 ** self.x[1]
        ticks = [m * 10.0**e for e in range(-3, 9) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
        return ticks if len(ticks) > 1 else _linear_ticks(low, high)

    def y_ticks(self) -> list[float]:
        return _linear_ticks(*self.y)


def _score_range(points: Sequence[Point]) -> tuple[float, float]:
    """Return a range of scores that shows all means, and the intervals as far as they leave these apart."""
    means = [p.mean for p in points]
    room = max(max(means) - min(means), 2 * median((p.high - p.low) / 2 for p in points))
    low, high = min(p.low for p in points), max(p.high for p in points)
    return max(low, min(means) - room), min(high, max(means) + room)


def _linear_ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first = math.ceil(low / step)
    return [round(n * step, 10) for n in range(first, math.floor(high / step) + 1)]


def _usable(points: Iterable[Point]) -> list[Point]:
    return [p for p in points if p.nbytes > 0 and all(map(math.isfinite, (p.mean, p.low, p.high)))]


def _labels(points: Sequence[Point], best: Sequence[Point], scale: _Scale) -> list[tuple[float, float]]:
    """Return where each label's middle goes, in pixels from its point: the first free place, or the freest."""
    dots = [scale.place(p.nbytes, p.mean) for p in points]
    taken: list[Box] = [(x - 6, y - 6, x + 6, y + 6) for x, y in dots]
    taken += [_bar(p, scale) for p in points] + list(_along([scale.place(p.nbytes, p.mean) for p in best]))
    offsets = []
    for point, (x, y) in zip(points, dots, strict=True):
        half = LETTER * len(point.name) / 2
        tries = [(side * (half + 11), row * 0.9 * LINE) for row in (0, 1, -1, 2, -2, 3, -3, 4, -4) for side in (1, -1)]
        best_try = min(tries, key=lambda t: _crowding((x + t[0], y + t[1]), half, taken))
        offsets.append(best_try)
        taken.append(_box((x + best_try[0], y + best_try[1]), half))
    return offsets


def _bar(point: Point, scale: _Scale) -> Box:
    x, low = scale.place(point.nbytes, point.low)
    return x - 1, scale.place(point.nbytes, point.high)[1], x + 1, low


def _along(line: Sequence[tuple[float, float]]) -> Iterator[Box]:
    """Yield small boxes along a line of straight pieces, so that labels keep off it."""
    for (x0, y0), (x1, y1) in pairwise(line):
        steps = max(1, int(math.hypot(x1 - x0, y1 - y0) / 6))
        for step in range(steps + 1):
            x, y = x0 + (x1 - x0) * step / steps, y0 + (y1 - y0) * step / steps
            yield x - 2, y - 2, x + 2, y + 2


def _box(middle: tuple[float, float], half: float) -> Box:
    return middle[0] - half, middle[1] - LINE / 2, middle[0] + half, middle[1] + LINE / 2


def _crowding(middle: tuple[float, float], half: float, taken: Sequence[Box]) -> float:
    """Return the area that a label shares with what is already there, or with the outside of the picture."""
    box = _box(middle, half)
    outside = max(0.0, box[2] - WIDTH) + max(0.0, LEFT - box[0]) + max(0.0, box[3] - (HEIGHT - BOTTOM))
    return 100 * outside + sum(_overlap(box, other) for other in taken)


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def pareto_svg(points: Iterable[Point], metric: str, *, higher_is_better: bool = True) -> Html:
    """Return the static picture, which needs no script."""
    usable = _usable(points)
    if not usable:
        return Html("")
    scale = _Scale.around(usable)
    best = front(usable, higher_is_better=higher_is_better)
    marks = "".join(
        _svg_mark(p, scale, offset, p in best) for p, offset in zip(usable, _labels(usable, best, scale), strict=True)
    )
    line = " ".join("{:.1f},{:.1f}".format(*scale.place(p.nbytes, p.mean)) for p in best)
    return Html(
        f'<svg class="static-figure" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(metric)} against size on disk">{_svg_axes(scale, metric)}'
        f'<polyline class="front" points="{line}"/>{marks}</svg>'
    )


def _svg_axes(scale: _Scale, metric: str) -> str:
    parts = []
    floor = HEIGHT - BOTTOM
    for tick in scale.x_ticks():
        x, _ = scale.place(tick * 1000, scale.y[0])
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{floor}"/>')
        parts.append(f'<text x="{x:.1f}" y="{floor + 20}" text-anchor="middle">{tick:g}</text>')
    for tick in scale.y_ticks():
        _, y = scale.place(1000 * 10 ** scale.x[0], tick)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">kB on disk (log scale)</text>')
    turned = f'transform="translate(14 {floor / 2}) rotate(-90)" text-anchor="middle"'
    parts.append(f"<text {turned}>{escape(metric)}</text>")
    return "".join(parts)


def _svg_mark(point: Point, scale: _Scale, offset: tuple[float, float], best: bool) -> str:
    x, y = scale.place(point.nbytes, point.mean)
    low, high = (min(max(scale.place(point.nbytes, end)[1], TOP), HEIGHT - BOTTOM) for end in (point.low, point.high))
    return (
        f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>'
        f'<circle class="{"best" if best else "rest"}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>'
        f'<text class="name" x="{x + offset[0]:.1f}" y="{y + offset[1] + 4:.1f}" text-anchor="middle">'
        f"{escape(point.name)}</text>"
    )


def pareto_figure(points: Iterable[Point], metric: str, *, higher_is_better: bool = True) -> dict[str, Any]:
    """Return the same picture for plotly, with the numbers on hover."""
    usable = _usable(points)
    scale = _Scale.around(usable)
    best = front(usable, higher_is_better=higher_is_better)
    ticks = scale.x_ticks()
    return {
        "data": [_front_trace(best), _points_trace([p for p in usable if p not in best], metric, best=False)]
        + [_points_trace(best, metric, best=True)],
        "layout": {
            "showlegend": False,
            "hovermode": "closest",
            "margin": {"l": LEFT, "r": RIGHT, "t": TOP, "b": BOTTOM},
            "xaxis": {
                "type": "log",
                "range": list(scale.x),
                "tickvals": ticks,
                "ticktext": [f"{t:g}" for t in ticks],
                "title": {"text": "kB on disk (log scale)"},
            },
            "yaxis": {"range": list(scale.y), "title": {"text": metric}},
            "annotations": [
                _annotation(p, offset) for p, offset in zip(usable, _labels(usable, best, scale), strict=True)
            ],
        },
    }


def _front_trace(best: Sequence[Point]) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [p.nbytes / 1000 for p in best],
        "y": [p.mean for p in best],
        "hoverinfo": "skip",
        "line": {"color": "--accent", "dash": "dash", "width": 1.25},
    }


def _points_trace(points: Sequence[Point], metric: str, *, best: bool) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [p.nbytes / 1000 for p in points],
        "y": [p.mean for p in points],
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [p.high - p.mean for p in points],
            "arrayminus": [p.mean - p.low for p in points],
            "color": "--faint",
            "thickness": 1,
            "width": 0,
        },
        "customdata": [[p.name, p.low, p.high] for p in points],
        "hovertemplate": "<b>%{customdata[0]}</b><br>%{x:.1f} kB<br>"
        + metric
        + " %{y:.4f} (%{customdata[1]:.4f} to %{customdata[2]:.4f})<extra></extra>",
        "marker": {
            "size": 10,
            "color": "--accent" if best else "--paper",
            "line": {"color": "--accent" if best else "--faint", "width": 1.5},
        },
    }


def _annotation(point: Point, offset: tuple[float, float]) -> dict[str, Any]:
    return {
        "x": math.log10(point.nbytes / 1000),
        "y": point.mean,
        "text": escape(point.name),
        "showarrow": False,
        "xshift": offset[0],
        "yshift": -offset[1],
        "font": {"size": 13, "color": "--ink"},
    }
