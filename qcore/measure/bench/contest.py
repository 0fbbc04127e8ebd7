"""A contest: contenders on one subject at one batch, checked first and then timed in turns."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

import torch
from torch import Tensor

from qcore.errors import QcoreError, UsageError
from qcore.foreign import ForeignError, guarded
from qcore.measure.bench.bandwidth import Bandwidth
from qcore.measure.bench.contenders import Contender, deviation, rotating
from qcore.measure.bench.device import CPU, Device
from qcore.measure.bench.result import Row
from qcore.measure.bench.timing import REST_S, Call, compare, take_turns

__all__ = ["Contest", "torch_threads"]

SLOW_S, SLOW_RATIO = 0.25, 5.0
"""A peer is left out if one call takes longer, and longer than so many of the float layer: it would hold up all."""

TIMES_CACHE = 2
"""Copies of cold weights take so many times the last-level cache, whose replacement is not strictly by age."""

MOST_COPIES = 1024


@dataclass(frozen=True)
class Contest:
    """What the contenders of one subject at one batch share.

    Attributes:
        subject: the layer's shape, or the model's file.
        batch: samples a call.
        rounds: how often each takes its turn.
        threads: that torch and the peers use.
        cold: weights stream from memory, not from a cache.
        bandwidth: of the device's memory.
        operations: multiplications and additions a call, or None.
        activation_nbytes: bytes of input and output, or None.
        tolerance: deviation from the expected output above which a peer computes something else; from the right one
            above which a packed network does.
        device: what they run on.
    """

    subject: str
    batch: int
    rounds: int
    threads: int
    cold: bool
    bandwidth: Bandwidth
    operations: int | None = None
    activation_nbytes: int | None = None
    tolerance: float = 0.05
    device: Device = CPU

    def run(self, contenders: Sequence[Contender], absent: Sequence[tuple[str, str]] = ()) -> list[Row]:
        """Check and time ``contenders``, the float one first; ``absent`` are names with the reasons of the others.

        Raises:
            QcoreError: a packed network fails, or computes something else.
        """
        with torch.inference_mode():
            base, *others = contenders
            expected, base_s = self._first_call(base)
            fit: dict[str, Contender] = {base.name: self._ready(base)}
            deviations: dict[str, float] = {}
            left_out: list[Row] = [self._absent(name, "peer", reason) for name, reason in absent]
            for contender in others:
                found = self._examine(contender, expected, base_s)
                if isinstance(found, str):
                    left_out.append(self._absent(contender.name, contender.kind, found))
                    continue
                deviations[contender.name], fit[contender.name] = found
            rest = REST_S if self.threads > 1 and not self.device.is_gpu else 0.0
            calls = {name: contender.call for name, contender in fit.items()}
            times = take_turns(calls, rounds=self.rounds, clock=self.device.clock(self.threads), rest_s=rest)
        rows = [
            self._row(fit[name], taken, compare_to=times[base.name], off=deviations.get(name))
            for name, taken in times.items()
        ]
        return rows + left_out

    def _examine(self, contender: Contender, expected: Tensor, base_s: float) -> tuple[float, Contender] | str:
        """Return how far off the output is, and who is timed; or why the contender is left out."""
        try:
            output, seconds = guarded("call", lambda: self._first_call(contender))
            wanted = expected if contender.expected is None else contender.expected
            off = deviation(output, wanted)
            if contender.kind == "packed":
                self._check(contender, output, wanted)
            if contender.kind == "peer" and not off <= (contender.tolerance or self.tolerance):
                return f"it computes something else: its output is {off:.0%} off"
            if contender.kind == "peer" and seconds > max(SLOW_S, SLOW_RATIO * base_s):
                return f"too slow: a call takes {seconds:.2f} s, one of the float layer {base_s:.2f} s"
            return off, guarded("copy", lambda: self._ready(contender))
        except ForeignError as error:
            if isinstance(error.__cause__, UsageError):
                return error.__cause__.message
            if contender.kind != "peer":
                raise QcoreError(f"{contender.name} failed on {self.subject}: {error.reason}") from error
            return f"failed: {error.reason}"

    def _first_call(self, contender: Contender) -> tuple[Tensor, float]:
        """Return the output as float32, and the seconds of the second call: the first may still build something."""
        contender.call()
        self.device.synchronize()
        start = time.perf_counter()
        result = contender.call()
        self.device.synchronize()
        seconds = time.perf_counter() - start
        return contender.read(result).detach().clone().to(torch.float32), seconds

    def _check(self, contender: Contender, output: Tensor, wanted: Tensor) -> None:
        off = deviation(output, wanted if contender.right is None else contender.right)
        if not off <= self.tolerance:
            kernel = "" if contender.kernel is None else f" ({contender.kernel})"
            raise QcoreError(f"{contender.name}{kernel} computes something else on {self.subject}: {off:.0%} off")

    def _ready(self, contender: Contender) -> Contender:
        """Return ``contender`` with the call that is timed; on a GPU a graph of it, where there can be one."""
        if not contender.captured:
            graph = self.device.captured(contender.call)
            if graph is not None:
                again = partial(self._captured_again, contender)
                contender = replace(contender, call=graph, again=again, captured=True)
        if not self.cold:
            return contender
        return replace(contender, call=rotating(contender, TIMES_CACHE * self.device.cache_nbytes(), MOST_COPIES))

    def _captured_again(self, contender: Contender) -> Call:
        call = contender.again()
        return self.device.captured(call) or call

    def _row(self, contender: Contender, times: list[float], *, compare_to: list[float], off: float | None) -> Row:
        middle, ratio = median(times), compare(compare_to, times)
        rate = contender.weight_nbytes / middle / 1e9 if self.activation_nbytes is not None else None
        touched = None if self.activation_nbytes is None else contender.weight_nbytes + self.activation_nbytes
        return Row(
            subject=self.subject,
            batch=self.batch,
            contender=contender.name,
            kind=contender.kind,
            kernel=contender.kernel,
            median_us=1e6 * middle,
            ratio=ratio.median,
            ratio_low=ratio.low,
            ratio_high=ratio.high,
            weight_nbytes=contender.weight_nbytes,
            touched_nbytes=touched,
            weight_gb_s=rate,
            bandwidth_share=None if rate is None else rate / self.bandwidth.gb_s,
            gop_s=None if self.operations is None else self.operations / middle / 1e9,
            deviation=off,
            captured=contender.captured if self.device.is_gpu else None,
        )

    def _absent(self, name: str, kind: str, reason: str) -> Row:
        return Row(subject=self.subject, batch=self.batch, contender=name, kind=kind, reason=reason)


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Let torch use ``threads`` threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
