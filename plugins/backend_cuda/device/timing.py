"""Times on a GPU: graphs of calls on rotated data, replayed in turns, by CUDA events."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

__all__ = ["Contender", "copies", "eager", "interleaved"]

ROTATED_NBYTES = 256 << 20
"""Data that a contender goes round, several times what the second-level cache holds."""
SHORTEST_US = 300.0
"""A graph that runs less is replayed several times between two events."""
Contender = Sequence[Callable[[], Any]]
"""The same work on different data, one call for each."""


def copies(nbytes: int, most: int = 24) -> int:
    """Return how many copies of ``nbytes`` are to be rotated."""
    return max(2, min(most, -(-ROTATED_NBYTES // max(nbytes, 1))))


def interleaved(
    contenders: Mapping[str, Contender], *, rounds: int = 12, failed: dict[str, str] | None = None
) -> dict[str, dict[str, float]]:
    """Return median and quartiles of the microseconds of one call of each contender.

    Args:
        contenders: by name.
        rounds: replays of each graph.
        failed: what takes the error of one that cannot be captured; the others go on.
    """
    graphs = {}
    for name, calls in contenders.items():
        try:
            graphs[name] = (_capture(calls), len(calls))
        except Exception as error:
            if failed is None:
                raise
            failed[name] = f"{type(error).__name__}: {error}"[:600]
            torch.cuda.synchronize()
    repeats = {name: max(1, int(SHORTEST_US / (_time(graph, 1) + 1e-3)) + 1) for name, (graph, _) in graphs.items()}
    times: dict[str, list[float]] = {name: [] for name in graphs}
    for _ in range(rounds):
        for name, (graph, count) in graphs.items():
            times[name].append(_time(graph, repeats[name]) / (repeats[name] * count))
    return {name: _summary(values) for name, values in times.items()}


def eager(contenders: Mapping[str, Callable[[], Any]], *, rounds: int = 12, warmup: int = 3) -> dict[str, Any]:
    """Return the same of calls that cannot be captured, since they wait for the GPU; one call at a time."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(warmup + rounds):
        for name, call in contenders.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            if turn >= warmup:
                times[name].append(1e3 * start.elapsed_time(end))
    return {name: _summary(values) for name, values in times.items()}


def _capture(calls: Contender) -> torch.cuda.CUDAGraph:
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    graph.replay()
    torch.cuda.synchronize()
    return graph


def _time(graph: torch.cuda.CUDAGraph, repeats: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return 1e3 * start.elapsed_time(end)


def _summary(values: list[float]) -> dict[str, float]:
    if len(values) < 2:
        return {"us": values[0], "low": values[0], "high": values[0]}
    low, middle, high = statistics.quantiles(values, n=4)
    return {"us": middle, "low": low, "high": high}
