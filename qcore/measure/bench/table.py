"""A report as a table to read: cells for a terminal, or Markdown. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from qcore.measure.bench.result import Report, Row
from qcore.measure.bench.timing import REST_S

__all__ = ["cells", "columns", "heading", "left_out", "markdown"]


def columns(report: Report) -> tuple[str, ...]:
    """Return the heads of the columns of :func:`cells`."""
    times = f"x {report.settings['float'].removeprefix('torch ')} (quartiles)"
    return ("layer", "batch", "contender", "us", times, "kB touched", "weight GB/s", "of read", "GOP/s")


def markdown(report: Report, title: str, command: str | None = None) -> str:
    """Return the report as a page."""
    lines = [f"# {title}", ""]
    if command:
        lines += [f"`{command}`", ""]
    heads = columns(report)
    lines += [*heading(report), "", f"| {' | '.join(heads)} |", "|---|---:|---" + "|---:" * (len(heads) - 3) + "|"]
    lines += [f"| {' | '.join(cells(row))} |" for row in report.rows if row.reason is None]
    missing = list(left_out(report))
    return "\n".join([*lines, *(["", "Left out:", "", *(f"- {line}" for line in missing)] if missing else []), ""])


def heading(report: Report) -> Iterator[str]:
    """Yield lines that say where and how the figures were taken."""
    machine, settings, bandwidth = report.machine, report.settings, report.bandwidth
    flags = " ".join(machine["flags"])
    yield f"{machine['date']}; {machine['cpu']}, {machine['cores']} cores{f', {flags}' if flags else ''}; " + (
        f"last-level cache {machine['last_level_nbytes'] / 2**20:.0f} MiB; load {machine['load']} before the start."
    )
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    yield f"Python {machine['python']}, qcore {machine['qcore']}, {versions}."
    if "gpu" in machine:
        gpu = machine["gpu"]
        yield (
            f"GPU {gpu['name']}, capability {gpu['capability']}, L2 cache {gpu['l2_nbytes'] / 2**20:.0f} MiB, "
            f"CUDA {gpu['cuda']}. Calls are CUDA graphs, but for those marked as eager."
        )
    for name, details in report.backends.items():
        yield f"Backend {name}: {', '.join(f'{key} {value}' for key, value in details.items()) or 'no details'}."
    where = (
        "weights stream from memory (copies in turn)" if settings["cold"] else "weights stay where the caches keep them"
    )
    if settings["threads"] > 1:
        where += (
            f"; {REST_S * 1e3:.0f} ms of rest before each turn; OMP_WAIT_POLICY {machine['wait_policy'] or 'not set'}"
        )
    yield (
        f"{settings['threads']} thread(s), {settings['clock']}, {settings['rounds']} interleaved rounds; {where}. "
        f"Read bandwidth {bandwidth['gb_s']:.1f} GB/s: {bandwidth['how']}."
    )
    yield (
        f"us: median of a call. x: how many times as fast as {settings['float']}, median and quartiles of the rounds; "
        "above 1 is faster. Bytes touched: weights, input and output. of read: weight GB/s over the read bandwidth, "
        "above 100 % where weights come from a cache."
    )


def cells(row: Row) -> list[str]:
    """Return the cells of a row that was timed."""
    return [
        row.subject,
        str(row.batch),
        row.contender + (", eager" if row.captured is False else ""),
        _number(row.median_us),
        f"{row.ratio:.2f} ({row.ratio_low:.2f}-{row.ratio_high:.2f})",
        "-" if row.touched_nbytes is None else _number(row.touched_nbytes / 1000),
        "-" if row.weight_gb_s is None else f"{row.weight_gb_s:.1f}",
        "-" if row.bandwidth_share is None else f"{row.bandwidth_share:.0%}",
        "-" if row.gop_s is None else _number(row.gop_s),
    ]


def left_out(report: Report) -> Iterator[str]:
    """Yield who is left out, why, and where: everywhere, or on which subjects."""
    contests = {(row.subject, row.batch) for row in report.rows}
    places: dict[tuple[str, str], list[str]] = {}
    for row in report.rows:
        if row.reason is not None:
            places.setdefault((row.contender, row.reason), []).append(f"{row.subject} batch {row.batch}")
    for (contender, reason), where in places.items():
        yield f"{contender}: {reason}" + ("" if len(where) == len(contests) else f" ({', '.join(where)})")


def _number(value: Any) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
