"""Latency of several models, measured in turns so that a busy moment of the machine hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qcore.errors import QcoreError, UsageError

__all__ = ["Latency", "interleaved_latency"]


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Times of one call, in microseconds; None with a ``reason`` where the model could not be called.

    Attributes:
        p50, p90, p99: percentiles, interpolated linearly.
        mean: average.
        std: sample standard deviation.
        calls: how many calls were timed.
        batch: samples a call.
        reason: why there are no times.
    """

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    mean: float | None = None
    std: float | None = None
    calls: int = 0
    batch: int = 0
    reason: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)


def interleaved_latency(
    models: Mapping[str, Callable[[Tensor], Any]],
    inputs: Tensor | Sequence[Tensor],
    *,
    calls: int = 200,
    warmup: int = 30,
) -> dict[str, Latency]:
    """Time ``models`` in the order A B C A B C ..., without gradients.

    Percentiles of models timed together can be compared; those of different runs cannot. The device is synchronized
    before each reading of the clock.

    Args:
        models: callables by name. One that fails is left out, with the reason; the others go on.
        inputs: the batch, (n, ...); or several of one size, taken in turns, the same by all models: a mixture or a
            cascade does not take equally long for every sample.
        calls: timed calls a model, at least 2.
        warmup: calls a model before the first that counts.

    Raises:
        UsageError: impossible numbers of calls.
    """
    if calls < 2 or warmup < 0:
        raise UsageError(f"latency needs at least 2 calls and no negative warm-up, got {calls} and {warmup}")
    batches = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    wait, size = _synchronizer(batches[0]), len(batches[0])
    times: dict[str, list[int]] = {name: [] for name in models}
    failed: dict[str, str] = {}
    with torch.inference_mode():
        for turn in range(warmup + calls):
            for name, model in models.items():
                if name in failed:
                    continue
                try:
                    elapsed = _time_call(model, batches[turn % len(batches)], wait)
                except (QcoreError, RuntimeError) as error:
                    failed[name] = f"the model failed on the batch: {error}"
                    continue
                if turn >= warmup:
                    times[name].append(elapsed)
    return {
        name: Latency(batch=size, reason=failed[name]) if name in failed else _summary(taken, size)
        for name, taken in times.items()
    }


def _time_call(model: Callable[[Tensor], Any], inputs: Tensor, wait: Callable[[], None]) -> int:
    wait()
    start = perf_counter_ns()
    model(inputs)
    wait()
    return perf_counter_ns() - start


def _synchronizer(inputs: Tensor) -> Callable[[], None]:
    device = inputs.device
    if device.type == "cpu":
        return lambda: None
    return lambda: torch.accelerator.synchronize(device)


def _summary(taken: list[int], batch: int) -> Latency:
    microseconds = np.asarray(taken, dtype=np.float64) / 1e3
    p50, p90, p99 = (float(value) for value in np.percentile(microseconds, [50, 90, 99]))
    return Latency(
        p50=p50,
        p90=p90,
        p99=p99,
        mean=float(microseconds.mean()),
        std=float(microseconds.std(ddof=1)),
        calls=len(taken),
        batch=batch,
    )
