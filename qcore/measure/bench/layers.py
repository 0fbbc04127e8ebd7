"""Packed linear layers beside torch's float layer and the peers: every shape with every batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qcore.backends import find_backends
from qcore.measure.bench.bandwidth import Bandwidth, read_bandwidth
from qcore.measure.bench.contenders import Contender, float_contender, pack_weight, packed_contender
from qcore.measure.bench.contest import Contest, torch_threads
from qcore.measure.bench.device import CPU, Device
from qcore.measure.bench.machine import machine_facts
from qcore.measure.bench.peers import PEERS, Peer, enter, peer_versions
from qcore.measure.bench.plan import BATCHES, BITS, SHAPES, Shape, Weight, parse_weights
from qcore.measure.bench.result import Report, Row
from qcore.nn.init import linear
from qcore.registry import Registry

__all__ = ["Options", "Progress", "bench_layers", "new_report", "peer_contenders", "sample_input"]

Progress = Callable[[str], None]

WEIGHTS = parse_weights(BITS)


@dataclass(frozen=True)
class Options:
    """How a benchmark is taken.

    Attributes:
        rounds: how often each contender takes its turn.
        threads: that torch, our kernels and the peers use; with one the times are CPU time, else wall time.
        backend: what runs packed layers, or ``"auto"``.
        peers: who takes part beside us and torch's float layer.
        cold: weights stream from memory: each call takes the next of a set of copies larger than the last-level cache.
        registry: where backends are looked up; None for the default framework's.
        device: where all of them run.
        bandwidth_nbytes: bytes that are read to measure the bandwidth; None for several times the cache.
    """

    rounds: int = 15
    threads: int = 1
    backend: str = "auto"
    peers: tuple[Peer, ...] = PEERS
    cold: bool = False
    registry: Registry | None = None
    device: Device = CPU
    bandwidth_nbytes: int | None = None


def bench_layers(
    shapes: Sequence[Shape] = SHAPES,
    batches: Sequence[int] = BATCHES,
    weights: Sequence[Weight] = WEIGHTS,
    options: Options | None = None,
    progress: Progress = lambda text: None,
) -> Report:
    """Time layers of ``shapes`` with weights stored as ``weights`` at each of ``batches``.

    Inputs and outputs are float32, on a GPU bfloat16; where ours compute in integers, the activations are quantized
    within the call.

    Raises:
        BackendError: the named backend cannot run one of them.
    """
    options = options or Options()
    with torch_threads(options.threads):
        report, bandwidth = new_report(options, progress)
        total = len(shapes) * len(batches)
        for place, (shape, batch, rows) in enumerate(_contests(shapes, batches, weights, options, bandwidth)):
            report.rows.extend(rows)
            progress(f"{place + 1}/{total}: {shape}, batch {batch}")
    return report


def new_report(options: Options, progress: Progress) -> tuple[Report, Bandwidth]:
    """Return a report without rows, and the bandwidth that its rows are compared with.

    Raises:
        UnknownNameError: no loaded plugin offers the named backend.
    """
    backends = _backend_details(options)  # before anything takes its time
    device = options.device
    bandwidth = read_bandwidth(device.clock(options.threads), nbytes=options.bandwidth_nbytes, device=device)
    progress(f"read bandwidth {bandwidth.gb_s:.1f} GB/s ({bandwidth.how})")
    report = Report(
        machine=machine_facts(peer_versions(options.peers)) | ({"gpu": device.facts()} if device.is_gpu else {}),
        backends=backends,
        settings={
            "threads": options.threads,
            "rounds": options.rounds,
            "clock": device.clock_name(options.threads),
            "device": str(device.device),
            "float": device.base,
            "cold": options.cold,
            "backend": options.backend,
        },
        bandwidth=bandwidth.as_dict(),
    )
    return report, bandwidth


def peer_contenders(
    module: Any, x: Tensor, options: Options, *, models: bool = False
) -> tuple[list[Contender], list[tuple[str, str]]]:
    """Return what the peers make of ``module``, and the names of those that are absent with the reasons."""
    peers = [peer for peer in options.peers if peer.models or not models]
    found = [(peer.label, enter(peer, module, x, options.threads)) for peer in peers]
    present = [contender for _, contender in found if isinstance(contender, Contender)]
    return present, [(label, reason) for label, reason in found if isinstance(reason, str)]


def sample_input(*sizes: int) -> Tensor:
    """Return normal float32 numbers, the same each time."""
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(1))


def _contests(
    shapes: Sequence[Shape],
    batches: Sequence[int],
    weights: Sequence[Weight],
    options: Options,
    bandwidth: Bandwidth,
) -> Iterator[tuple[Shape, int, list[Row]]]:
    for shape in shapes:
        layer = linear(shape.cols, shape.rows, torch.Generator().manual_seed(0)).eval().requires_grad_(False)
        layer, device = layer.to(options.device.device), options.device
        floats = layer if device.dtype is torch.float32 else copy.deepcopy(layer).to(device.dtype)
        packed = [(str(weight), pack_weight(layer, weight, options.backend, options.registry)) for weight in weights]
        for batch in batches:
            x = sample_input(batch, shape.cols).to(device.device, device.dtype)
            peers, absent = peer_contenders(floats, x, options)
            contest = Contest(
                subject=str(shape),
                batch=batch,
                rounds=options.rounds,
                threads=options.threads,
                cold=options.cold,
                bandwidth=bandwidth,
                operations=2 * batch * shape.cols * shape.rows,
                activation_nbytes=x.element_size() * batch * (shape.cols + shape.rows),
                device=device,
            )
            ours = [packed_contender(layer, name, x) for name, layer in packed]
            yield shape, batch, contest.run([float_contender(floats, x, device.base), *ours, *peers], absent)


def _backend_details(options: Options) -> dict[str, dict[str, str]]:
    candidates, _ = find_backends(options.backend, options.registry)
    probes = {candidate.id: candidate.backend.probe() for candidate in candidates}
    return {name: probe.details for name, probe in probes.items() if probe.available}
