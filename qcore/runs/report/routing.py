"""The report's chapter on routing: which expert took which samples, and how uncertain those were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qcore.methods.evidence import MissingEvidenceError
from qcore.runs.report import figures
from qcore.runs.report.material import Material
from qcore.runs.report.page import Column, Html, figure, section, table

if TYPE_CHECKING:
    from qcore.methods.evidence import Array

__all__ = ["routing"]

Samples = Mapping[str, "Array"]

LEVELS = 12
"""More widths than this are not those of single experts."""


def routing(material: Material) -> Html:
    """Return the chapter, or nothing where no arm routes its samples."""
    routed = {arm: samples for arm in material.arms if "expert_bits" in (samples := _samples(material, arm))}
    if not routed:
        return Html("")
    parts = [_bits(material, routed), _uncertainty(material, routed), _table(routed)]
    return section("Routing", *parts, lead="Which expert each held-out sample was given.")


def _samples(material: Material, arm: str) -> Samples:
    try:
        return material.evidence.samples(arm)
    except (MissingEvidenceError, OSError):
        return {}


def _bits_of(samples: Samples) -> Array:
    """Return the bits of each sample; rounded to halves where several experts share a sample and widths are means."""
    import numpy as np

    bits = np.asarray(samples["expert_bits"], dtype=float).round(3)
    return bits if len(np.unique(bits)) <= LEVELS else (2 * bits).round() / 2


def _labels(samples: Samples) -> list[tuple[str, Array]]:
    """Return each expert's label and the mask of its samples, fewest bits first."""
    import numpy as np

    bits = _bits_of(samples)
    experts = np.asarray(samples.get("expert", bits)).reshape(len(bits), -1)[:, 0]
    pairs = sorted({(float(b), float(e)) for b, e in zip(bits, experts, strict=True)})
    if len(pairs) > LEVELS:  # shared samples: an expert stands for no width of its own
        return [(f"{b:g} bits", bits == b) for b in sorted({b for b, _ in pairs})]
    shared = len({b for b, _ in pairs}) < len(pairs)
    return [(f"{b:g} bits" + (f" (expert {e:g})" if shared else ""), (bits == b) & (experts == e)) for b, e in pairs]


def _bits(material: Material, routed: Mapping[str, Samples]) -> Html:
    import numpy as np

    shares: dict[str, dict[float, float]] = {}
    for arm, samples in routed.items():
        values, counts = np.unique(_bits_of(samples), return_counts=True)
        shares[arm] = {float(v): float(c) / counts.sum() for v, c in zip(values, counts, strict=True)}
    drawn = figures.bits_histogram(shares, material.colours)
    return figure(drawn, caption="Share of held-out samples by the bits of the expert that took them.", height=320)


def _uncertainty(material: Material, routed: Mapping[str, Samples]) -> Html:
    boxes = {
        arm: {label: _five(samples["uncertainty"][mask]) for label, mask in _labels(samples)}
        for arm, samples in routed.items()
        if "uncertainty" in samples
    }
    if not boxes:
        return Html("")
    caption = "Uncertainty of the samples that each expert took: quartiles, and whiskers from 5 % to 95 %."
    return figure(figures.uncertainty_boxes(boxes, material.colours), caption=caption, height=360)


def _five(values: Array) -> list[float]:
    import numpy as np

    return [float(v) for v in np.quantile(np.asarray(values, dtype=float), (0.05, 0.25, 0.5, 0.75, 0.95))]


def _table(routed: Mapping[str, Samples]) -> Html:
    columns = (
        Column("Arm"),
        Column("Expert"),
        Column("Samples", number=True),
        Column("Share", number=True),
        Column("Median uncertainty", number=True, title="nats"),
        Column("Accuracy", number=True, title="of the samples that this expert took"),
    )
    rows = [_row(arm, label, mask, samples) for arm, samples in routed.items() for label, mask in _labels(samples)]
    return table(columns, rows)


def _row(arm: str, label: str, mask: Array, samples: Samples) -> list[Any]:
    import numpy as np

    uncertainty = samples.get("uncertainty")
    right = samples["prediction"] == samples["target"] if "confidence" in samples else None
    return [
        arm,
        label,
        f"{int(mask.sum()):,}",
        f"{100 * float(mask.mean()):.1f} %",
        None if uncertainty is None else f"{float(np.median(uncertainty[mask])):.4f}",
        None if right is None else f"{float(right[mask].mean()):.4f}",
    ]
