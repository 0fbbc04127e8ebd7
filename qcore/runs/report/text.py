"""Numbers as a reader wants them: the same in the report and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["UNKNOWN", "difference", "kilobytes", "latency_us", "number", "p_text", "score", "spread"]

UNKNOWN = "–"


def score(value: float | None) -> str:
    """Return a score: four decimals, or one where it is large."""
    if value is None:
        return UNKNOWN
    return f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}"


def spread(found: Mapping[str, Any]) -> str:
    """Return mean and standard deviation of a summary's score."""
    if found.get("mean") is None:
        return UNKNOWN
    return score(found["mean"]) + (f" ±{score(found['std'])}" if found.get("std") is not None else "")


def difference(value: float) -> str:
    """Return a difference of scores, with its sign."""
    return f"{value:+.4f}" if abs(value) < 100 else f"{value:+,.1f}"


def kilobytes(nbytes: float | None) -> str:
    """Return a size in units of 1000 bytes."""
    if not nbytes:
        return UNKNOWN
    return f"{nbytes / 1e6:.2f} MB" if nbytes >= 1e6 else f"{nbytes / 1e3:.1f} kB"


def p_text(p: float) -> str:
    """Return a p value."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def number(value: Any) -> str | None:
    """Return a number with four significant digits; None stays None."""
    if value is None:
        return None
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def latency_us(arm: Mapping[str, Any], batch: str) -> float | None:
    """Return the median latency of an arm of the summary at a batch size, in microseconds."""
    found = (arm.get("latency_us") or {}).get(batch)
    value = found.get("p50") if isinstance(found, Mapping) else None
    return None if value is None else float(value)
