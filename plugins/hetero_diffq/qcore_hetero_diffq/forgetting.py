"""What a network forgets as its bytes get fewer: classes, samples, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from qcore.methods.evidence import MissingEvidenceError

if TYPE_CHECKING:
    from qcore.methods import Evidence

__all__ = ["Forgetting", "look_back", "overlaps"]

FLOAT = "float"


@dataclass(frozen=True)
class Forgetting:
    """What networks lose against float, sample by sample.

    Attributes:
        arms: the networks, as given.
        classes: the targets.
        recall_change: (arms, classes), recall less that of float.
        forgotten: of each arm, the share of samples that float gets right and it gets wrong.
        overlap: (arms, arms), Jaccard index of those samples.
        chance: mean index of two arms if what each forgets were drawn from what float gets right.
        calibration: expected calibration error of float and of each arm.
    """

    arms: tuple[str, ...]
    classes: tuple[str, ...]
    recall_change: NDArray[np.float64]
    forgotten: tuple[float, ...]
    overlap: NDArray[np.float64]
    chance: float
    calibration: dict[str, float]


def look_back(evidence: Evidence, arms: Sequence[str]) -> Forgetting | None:
    """Return what ``arms`` forget, or None where that cannot be said: a regression, or no float arm."""
    try:
        base = _sorted(evidence.samples(FLOAT))
        told = {arm: _sorted(evidence.samples(arm)) for arm in arms}
        calibration = {arm: float(evidence.scores(arm, "ece").mean()) for arm in (FLOAT, *arms)}
    except (MissingEvidenceError, OSError):
        return None
    if not told or "confidence" not in base:
        return None
    right = base["prediction"] == base["target"]
    lost = np.stack([right & (samples["prediction"] != samples["target"]) for samples in told.values()])
    classes = np.unique(base["target"])
    recall = _recall(base, classes)
    change = np.stack([_recall(samples, classes) - recall for samples in told.values()])
    overlap, chance = overlaps(lost, int(right.sum()))
    return Forgetting(
        tuple(told), tuple(map(str, classes)), change, tuple(lost.mean(axis=1).tolist()), overlap, chance, calibration
    )


def overlaps(lost: NDArray[np.bool_], drawn_from: int) -> tuple[NDArray[np.float64], float]:
    """Return the Jaccard indices of rows of ``lost`` (sets, samples), and the mean that chance would give.

    The index of two empty sets is 1. By chance, two sets of a and b out of n share ``ab / n`` on the mean.
    """
    counts = lost.sum(axis=1).astype(np.float64)
    shared = lost.astype(np.float64) @ lost.T.astype(np.float64)
    either = counts[:, None] + counts[None, :] - shared
    index = np.where(either > 0, shared / np.maximum(either, 1), 1.0)
    by_chance = np.outer(counts, counts) / max(drawn_from, 1)
    expected = by_chance / np.maximum(counts[:, None] + counts[None, :] - by_chance, 1e-12)
    pairs = ~np.eye(len(lost), dtype=bool)
    return index, float(expected[pairs].mean()) if pairs.any() else 0.0


def _sorted(samples: dict[str, Any]) -> dict[str, Any]:
    """Return the samples in one order for all arms: by seed, fold and row."""
    order = np.lexsort((samples["index"], samples["fold"], samples["seed"]))
    return {key: samples[key][order] for key in ("prediction", "target", "confidence") if key in samples}


def _recall(samples: dict[str, Any], classes: NDArray[Any]) -> NDArray[np.float64]:
    hits = samples["prediction"] == samples["target"]
    return np.array([hits[samples["target"] == value].mean() for value in classes])
