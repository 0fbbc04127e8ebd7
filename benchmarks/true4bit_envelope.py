"""The first epochs of the full VGG beside the paper's log: `python benchmarks/true4bit_envelope.py RUN`.

RUN is the directory of: qcore run --plugin true4bit --task cifar10 --arms float,true4bit --set epochs=5
--set schedule=paper --validation 0.1
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from common import write
from from_run import command

from qcore.runs import Run

PUBLISHED = {1: (66.84, 51.99), 3: (76.65, 74.65), 5: (81.59, 80.17)}
"""Epoch to test and training accuracy in percent, from the log of Tathe 2026 (CIFAR-10, epochs 1 to 150)."""


def main() -> None:
    run = Run(Path(sys.argv[1]))
    arms = [arm["name"] for arm in run.record["arms"]]
    curves = {arm: run.history(arm) for arm in arms}
    tests = {arm: 100 * run.evidence().scores(arm, "accuracy") for arm in arms}
    nbytes = {arm: run.evidence().size(arm, "file_nbytes") for arm in arms}
    lines = [*about(run), "", *table(arms, curves), ""]
    lines += [f"- {arm}: test accuracy {tests[arm].mean():.2f}, file {nbytes[arm]:,.0f} bytes" for arm in arms]
    gap = float(tests[arms[1]].mean() - tests[arms[0]].mean())
    ratio = nbytes["float"] / nbytes["true4bit"]
    lines += [f"- {arms[1]} minus {arms[0]}: {gap:+.2f} points on the test part; the file is {ratio:.2f} times smaller"]
    data = {
        "curves": curves,
        "test_accuracy": {arm: scores.ravel().tolist() for arm, scores in tests.items()},
        "file_nbytes": nbytes,
        "published": PUBLISHED,
        "origin": {"commit": run.record["git"]["commit"], "config": run.record["config"]},
    }
    write("true4bit_full_vgg", command(run.record), data, "\n".join(lines))


def about(run: Run) -> list[str]:
    source = Path(run.record["data"]["source"]).name
    parts = run.results()[0]["samples"]
    return [
        f"vgg4bit of width 64, seed {run.record['seeds']}, the first epochs of the paper's schedule. Data: {source}.",
        f"{parts['train']:,} images trained on, {parts['validation']:,} validated on, {parts['test']:,} tested on",
        "after the last epoch. The paper trained on 50,000 and gives test accuracies, every epoch. All in percent.",
    ]


def table(arms: list[str], curves: dict[str, list[dict[str, Any]]]) -> list[str]:
    heads = [f"{arm}, validation" for arm in arms] + [f"{arm}, loss" for arm in arms]
    shown = " | ".join([*heads, "fewest levels", "mean entropy", "paper, test"])
    rows = [f"| epoch | {shown} |", "|---" * (len(heads) + 4) + "|"]
    for number in range(min(map(len, curves.values()))):
        validation = [f"{100 * curves[arm][number]['validation']:.2f}" for arm in arms]
        loss = [f"{curves[arm][number]['train_loss']:.4f}" for arm in arms]
        layers = list(curves["true4bit"][number]["observed"]["layers"].values())
        levels = min(int(layer["levels"]) for layer in layers)
        entropy = statistics.mean(layer["entropy"] for layer in layers)
        published = PUBLISHED.get(number + 1)
        paper = "-" if published is None else f"{published[0]:.2f}"
        cells = [*validation, *loss, str(levels), f"{entropy:.2f}", paper]
        rows.append(f"| {number + 1} | {' | '.join(cells)} |")
    return rows


if __name__ == "__main__":
    main()
