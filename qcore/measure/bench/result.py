"""What a benchmark found, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Report", "Row"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One contender on one subject at one batch. Without times there is a ``reason``; a figure that is unknown is None.

    Attributes:
        subject: the layer's shape, or the model's file.
        batch: samples a call.
        contender: who.
        kind: ``"float"``, ``"packed"`` or ``"peer"``.
        kernel: backend and kernel of a packed layer.
        median_us: microseconds a call, median over the rounds.
        ratio, ratio_low, ratio_high: how many times as fast as torch's float layer: median and quartiles of the rounds'
            ratios.
        weight_nbytes: bytes of weights and scales.
        touched_nbytes: these, and the float input and output.
        weight_gb_s: ``weight_nbytes`` over the median time, 10^9 bytes a second.
        bandwidth_share: ``weight_gb_s`` over the measured read bandwidth; above 1 where weights come from a cache.
        gop_s: multiplications and additions of the product over the median time, 10^9 a second.
        deviation: ``|y - expected| / |expected|`` of the output.
        captured: on a GPU, whether what was timed is a CUDA graph; else None.
        reason: why it is left out.
    """

    subject: str
    batch: int
    contender: str
    kind: str
    kernel: str | None = None
    median_us: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    weight_nbytes: int | None = None
    touched_nbytes: int | None = None
    weight_gb_s: float | None = None
    bandwidth_share: float | None = None
    gop_s: float | None = None
    deviation: float | None = None
    captured: bool | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """All rows of a benchmark, and where they were taken.

    Attributes:
        machine: facts about machine and process, see :func:`qcore.measure.bench.machine.machine_facts`.
        backends: details of each available backend, by id.
        settings: device, its float layer, threads, rounds, clock, whether weights streamed from memory.
        bandwidth: the measured read bandwidth, see :class:`qcore.measure.bench.bandwidth.Bandwidth`.
        rows: what was found.
    """

    machine: dict[str, Any]
    backends: dict[str, dict[str, str]]
    settings: dict[str, Any]
    bandwidth: dict[str, Any]
    rows: list[Row] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)
