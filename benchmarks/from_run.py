"""Keep a run's figures: `python benchmarks/from_run.py RUN NAME` writes `results/NAME.json` and `results/NAME.md`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

from common import write

from qcore.runs.report.pareto import Point, front


def main() -> None:
    run, name = Path(sys.argv[1]), sys.argv[2]
    summary = json.loads((run / "summary.json").read_text())
    record = json.loads((run / "run.json").read_text())
    git = record["git"]
    data = {**record["data"], "source": Path(record["data"]["source"]).name}
    again = [entry["git"]["commit"] for entry in record["resumed"] if entry["git"]["commit"] != git["commit"]]
    origin = {"commit": git["commit"], "dirty": git["dirty"], "resumed_at": again}
    origin |= {"data": data, "config": record["config"]}
    parts = (heading(summary, origin), arms(summary), frontier(summary), others(summary), claims(summary))
    table = "\n\n".join("\n".join(part) for part in parts)
    write(name, command(record), {"origin": origin, "summary": summary}, table)


def command(record: dict[str, Any]) -> str:
    """Return the command without where it was run: its folders are the machine's own."""
    words = [Path(record["command"][0]).name, *record["command"][1:]]
    if "--out" in words:
        place = words.index("--out")
        del words[place : place + 2]
    return shlex.join(words)


def heading(summary: dict[str, Any], origin: dict[str, Any]) -> list[str]:
    folds, seeds = len(summary["folds"]), len(summary["seeds"])
    commit = (origin["commit"] or "unknown")[:12] + (", with changes" if origin["dirty"] else "")
    commit += "".join(f", resumed at {(again or 'unknown')[:12]}" for again in origin["resumed_at"])
    return [
        f"{folds} folds x {seeds} seed(s), {summary['metric']}; commit {commit}; data {origin['data']['digest'][:23]}.",
        "Score: mean and standard deviation over folds and seeds. Difference to the baseline with its 95 % interval",
        "and p value: paired t test with the correction of Nadeau and Bengio, Holm over arms.",
    ]


def arms(summary: dict[str, Any]) -> list[str]:
    tests = {test["arm"]: test for test in summary["tests"]}
    baseline = summary["arms"][summary["baseline"]]
    rows = [
        "| arm | score | difference | p | kB on disk | bits a weight | us, batch 1 | us, batch 64 |",
        "|---" * 8 + "|",
    ]
    for name, arm in summary["arms"].items():
        size = f"{arm['nbytes'] / 1000:.1f} ({baseline['nbytes'] / arm['nbytes']:.2f}x)"
        latency = [_us(arm["latency_us"].get(batch, {})) for batch in ("1", "64")]
        found = tests.get(name)
        difference = "-" if found is None else f"{found['difference']:+.4f} ({_interval(found['interval'])})"
        p = "-" if found is None or found["p_adjusted"] is None else f"{found['p_adjusted']:.3f}"
        score = f"{arm['score']['mean']:.4f}"
        if arm["score"]["std"] is not None:
            score += f" +- {arm['score']['std']:.4f}"
        rows.append(
            f"| {name} | {score} | {difference} | {p} | {size} | {arm['effective_bits']:.2f} | {' | '.join(latency)} |"
        )
    return rows


def frontier(summary: dict[str, Any]) -> list[str]:
    """Return, from few bytes to many, the arms that score better than every arm of no more bytes."""
    means = {name: (arm["nbytes"], arm["score"]["mean"]) for name, arm in summary["arms"].items()}
    points = [Point(name, nbytes, mean, mean, mean) for name, (nbytes, mean) in means.items()]
    kept = front(points, higher_is_better=summary["higher_is_better"])
    told = "; ".join(f"{point.name} ({point.nbytes / 1000:.1f} kB, {point.mean:.4f})" for point in kept)
    return [f"Frontier, bytes on disk against score: {told}."]


def others(summary: dict[str, Any]) -> list[str]:
    """Return a table of the metrics beside the primary one."""
    names = [name for name in next(iter(summary["arms"].values()))["scores"] if name != summary["metric"]]
    rows = [f"| arm | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for arm, found in summary["arms"].items():
        means = [found["scores"][name]["mean"] for name in names]
        rows.append(f"| {arm} | {' | '.join('-' if mean is None else f'{mean:.4f}' for mean in means)} |")
    return rows


def claims(summary: dict[str, Any]) -> list[str]:
    rows = ["| claim | verdict | found | test |", "|---|---|---|---|"]
    for claim in summary["claims"]:
        value = claim["value"]
        found = "-" if value is None else f"{value:.4g}" if isinstance(value, int | float) else json.dumps(value)
        p = "" if claim["p_adjusted"] is None else f", p = {claim['p_adjusted']:.3g}"
        why = f" ({claim['reason']})" if claim["verdict"] == "untested" else ""
        statement = claim["statement"].replace("|", "\\|")
        rows.append(f"| {statement} | {claim['verdict']}{why} | {found}{p} | {claim['test']} |")
    return rows


def _us(latency: dict[str, Any]) -> str:
    return "-" if latency.get("p50") is None else f"{latency['p50']:.0f}"


def _interval(bounds: list[float] | None) -> str:
    return "-" if bounds is None else f"{bounds[0]:+.4f}, {bounds[1]:+.4f}"


if __name__ == "__main__":
    main()
