"""The report's chapter on learning curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qcore.runs.report import figures
from qcore.runs.report.material import Material
from qcore.runs.report.page import Html, figure, section

__all__ = ["learning"]


def learning(material: Material) -> Html:
    """Return the learning curves."""
    curves = {arm: figures.mean_curve(_histories(material, arm)) for arm in material.arms}
    trained = {arm: curve for arm, curve in curves.items() if any(v is not None for v in curve)}
    if not trained:
        return Html("")
    caption = "Mean over folds and seeds, while at least half of them still train. Validation parts only."
    drawn = figures.learning_curves(trained, material.metric, material.colours)
    return section("Learning curves", figure(drawn, caption=caption))


def _histories(material: Material, arm: str) -> list[list[float | None]]:
    files = sorted((material.directory / arm).glob("*/history.jsonl"))
    return [[_score(row) for row in _read_lines(file)] for file in files]


def _read_lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _score(row: Mapping[str, Any]) -> float | None:
    value = row.get("validation")
    return float(value) if isinstance(value, int | float) else None
