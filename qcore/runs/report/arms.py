"""The report's head, its table of arms, and score against bytes."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from qcore.runs.report.material import Material, interval
from qcore.runs.report.page import Column, Html, escape, figure, note, section, table
from qcore.runs.report.pareto import front, pareto_figure, pareto_svg
from qcore.runs.report.text import UNKNOWN, difference, kilobytes, latency_us, number, p_text, score, spread

__all__ = ["arms_table", "header", "pareto"]


def header(material: Material) -> Html:
    """Return the top of the page: what ran, what came of it, and the command."""
    summary, record = material.summary, material.record
    seeds, folds = len(summary["seeds"]), len(summary["folds"])
    lead = (
        f"{len(material.arms)} arms, {folds} folds × {seeds} {'seed' if seeds == 1 else 'seeds'}, "
        f"{material.metric} on held-out folds. {record.get('started') or ''}"
    )
    command = record.get("command")
    text = shlex.join(map(str, command)) if isinstance(command, list) else command
    tiles = "".join(_tile(*parts) for parts in _tiles(material))
    return Html(
        f"<header><h1>{escape(material.title)}</h1>"
        f'<p class="lead">{escape(lead.strip())}</p><div class="tiles">{tiles}</div>'
        f"{f'<pre>{escape(text)}</pre>' if text else ''}</header>"
    )


def _tile(label: str, value: str, detail: str) -> str:
    return (
        f'<div class="tile"><span class="label">{escape(label)}</span><b>{escape(value)}</b>'
        f"<span>{escape(detail)}</span></div>"
    )


def _tiles(material: Material) -> Iterator[tuple[str, str, str]]:
    verdicts = [claim["verdict"] for claim in material.summary["claims"]]
    if verdicts:
        count = {name: verdicts.count(name) for name in ("holds", "fails", "untested")}
        detail = f"{count['fails']} fail, {count['untested']} untested"
        yield "Claims that hold", f"{count['holds']} of {len(verdicts)}", detail
    if not material.points:
        return
    higher = material.evidence.higher_is_better
    best = (max if higher else min)(material.points, key=lambda p: p.mean)
    yield f"Best {material.metric}", score(best.mean), f"{best.name}, {kilobytes(best.nbytes)}"
    base = next((p for p in material.points if p.name == material.baseline), best)
    small = min(material.points, key=lambda p: p.nbytes)
    if small.nbytes and small.name != base.name:
        change = f"{difference(small.mean - base.mean)} {material.metric}"
        yield "Smallest", f"{base.nbytes / small.nbytes:.1f}× smaller", f"{small.name} than {base.name}, {change}"


def arms_table(material: Material) -> Html:
    """Return the table of arms: score, difference, size, latency, energy."""
    columns = (
        Column("Arm"),
        Column(material.metric, number=True, title="mean and standard deviation over folds and seeds"),
        Column("95\u00a0% interval", number=True, title="corrected for overlapping training sets"),
        Column(f"Δ to {material.baseline}", number=True, title="mean of paired differences, corrected p value"),
        Column("On disk", number=True, title="bytes of the model file"),
        Column("Bits a weight", number=True, title="packed bytes of the weights, scales included"),
        Column("p50 latency, batch 1 / 64", number=True, title="microseconds a call"),
    )
    rows = [_arm_row(material, name, arm) for name, arm in material.arms.items()]
    best = {p.name for p in front(material.points, higher_is_better=material.evidence.higher_is_better)}
    marked = [number for number, name in enumerate(material.arms) if name in best]
    text = "Shaded arms are those that no other arm beats in score and bytes at once."
    return section("Arms", table(columns, rows, marked=marked), note(text), _energy(material))


def _arm_row(material: Material, name: str, arm: Mapping[str, Any]) -> list[object]:
    base = material.arms[material.baseline]
    ends = interval(arm["score"], material.evidence.train_test_sizes())
    summary = escape(name) + (f"<small>{escape(arm['summary'])}</small>" if arm.get("summary") else "")
    ratio = f" ({base['nbytes'] / arm['nbytes']:.1f}×)" if arm["nbytes"] and base["nbytes"] and arm is not base else ""
    return [
        Html(summary),
        spread(arm["score"]),
        f"{score(ends[0])} to {score(ends[1])}" if ends else None,
        _difference(material, name),
        kilobytes(arm["nbytes"]) + ratio,
        None if arm.get("effective_bits") is None else f"{arm['effective_bits']:.2f}",
        _latencies(arm),
    ]


def _difference(material: Material, arm: str) -> Html | None:
    test = next((t for t in material.summary["tests"] if t.get("arm") == arm and t.get("difference") is not None), None)
    if test is None:
        return None
    p = test.get("p_adjusted") if test.get("p_adjusted") is not None else test.get("p_value")
    return Html(difference(test["difference"]) + (f"<small>{p_text(p)}</small>" if p is not None else ""))


def _latencies(arm: Mapping[str, Any]) -> str | None:
    found = [latency_us(arm, batch) for batch in ("1", "64")]
    if found == [None, None]:
        return None
    return " / ".join(UNKNOWN if value is None else f"{value:,.0f} µs" for value in found)


def _energy(material: Material) -> Html:
    rows = [_energy_row(name, arm) for name, arm in material.arms.items()]
    if not any(part for row in rows for part in row[1:]):
        return Html("")
    columns = (
        Column("Arm"),
        Column("Measured", number=True, title="joules a sample, from an energy counter"),
        Column("Modelled arithmetic", number=True, title="joules a sample, from a table of operations"),
        Column("Remark"),
    )
    return Html(f"<details><summary>Energy (J a sample)</summary>{table(columns, rows)}</details>")


def _energy_row(name: str, arm: Mapping[str, Any]) -> list[str | None]:
    measured, modelled = arm.get("energy_j") or {}, arm.get("modelled_energy_j") or {}
    remarks = [measured.get("reason"), modelled.get("source"), modelled.get("reason")]
    text = "; ".join(dict.fromkeys(str(remark) for remark in remarks if remark))
    return [name, number(measured.get("value")), number(modelled.get("value")), text]


def pareto(material: Material) -> Html:
    """Return the picture of score against bytes."""
    points = [p for p in material.points if p.nbytes > 0]
    if not points:
        return Html("")
    options = {"higher_is_better": material.evidence.higher_is_better}
    drawn = figure(
        pareto_figure(points, material.metric, **options),
        fallback=pareto_svg(points, material.metric, **options),
        caption="Filled points are on the front: no arm has a better score in fewer bytes. Bars: 95\u00a0% intervals.",
    )
    return section("Accuracy against bytes", drawn)
