from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from qcore.backends import Kernel
from qcore.backends.reference import ReferenceBackend
from qcore.errors import BackendError, QcoreError, UnknownNameError
from qcore.measure.bench import layers as room
from qcore.measure.bench.device import Device
from qcore.measure.bench.layers import Options, bench_layers
from qcore.measure.bench.peers import choose_peers
from qcore.measure.bench.plan import Shape, Weight

OPTIONS = Options(rounds=2, peers=choose_peers("int_mm"), bandwidth_nbytes=1 << 16)


def test_every_shape_meets_every_batch_and_weight() -> None:
    told: list[str] = []
    shapes, weights = (Shape(16, 8), Shape(8, 4)), (Weight(None), Weight(4))
    before = torch.get_num_threads()
    report = bench_layers(shapes, (1, 3), weights, OPTIONS, told.append)
    assert torch.get_num_threads() == before
    names = ["torch fp32", "ternary", "4 bit", "torch _int_mm (codes only)"]
    assert [(row.subject, row.batch, row.contender) for row in report.rows] == [
        (str(shape), batch, name) for shape in shapes for batch in (1, 3) for name in names
    ]
    first = report.rows[0]
    assert first.weight_nbytes == 4 * 16 * 8
    assert first.touched_nbytes == 4 * (16 * 8 + 16 + 8)
    assert told[0].startswith("read bandwidth")
    assert told[-1] == "4/4: 8 -> 4, batch 3"
    assert "core/reference" in report.backends
    assert report.settings["clock"] == "CPU time of the process"
    assert set(report.as_dict()) == {"machine", "backends", "settings", "bandwidth", "rows"}


def test_a_backend_can_be_named_and_is_told_with_its_kernel() -> None:
    options = Options(rounds=2, peers=(), backend="core/reference", bandwidth_nbytes=1 << 16)
    report = bench_layers((Shape(16, 8),), (1,), (Weight(8),), options)
    assert str(report.rows[1].kernel).startswith("core/reference: linear")
    assert set(report.backends) == {"core/reference"}


def test_a_named_backend_that_cannot_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ReferenceBackend, "reject", lambda self, request: "not today")
    options = Options(rounds=2, peers=(), backend="core/reference", bandwidth_nbytes=1 << 16)
    with pytest.raises(BackendError, match="not today"):
        bench_layers((Shape(16, 8),), (1,), (Weight(None),), options)


def test_an_unknown_backend_is_told_before_the_bandwidth_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "read_bandwidth", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(UnknownNameError, match="nosuch"):
        bench_layers((Shape(16, 8),), (1,), (Weight(8),), Options(rounds=2, peers=(), backend="nosuch"))


def test_a_kernel_that_computes_something_else_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ReferenceBackend.prepare

    def doubled(self: ReferenceBackend, *given: Any) -> Kernel:
        kernel = real(self, *given)
        return replace(kernel, call=lambda x: 2 * kernel.call(x))

    monkeypatch.setattr(ReferenceBackend, "prepare", doubled)
    options = Options(rounds=2, peers=(), backend="core/reference", bandwidth_nbytes=1 << 16)
    with pytest.raises(QcoreError, match=r"8 bit \(core/reference: .*computes something else on 16 -> 8: 100% off"):
        bench_layers((Shape(16, 8),), (1,), (Weight(8),), options)


def test_an_output_whose_terms_cancel_is_not_taken_for_a_wrong_one() -> None:
    """One output feature: a sum near zero is far off in relation to itself, though the kernel is right."""
    options = Options(rounds=2, peers=(), backend="core/reference", bandwidth_nbytes=1 << 16)
    shapes = tuple(Shape(cols, 1) for cols in range(30, 90))
    report = bench_layers(shapes, (1,), (Weight(8), Weight(4, 8), Weight(4, float_input=True)), options)
    assert max(row.deviation or 0 for row in report.rows) > 0.05


def test_what_a_gpu_is_compared_in_are_16_bits() -> None:
    device = Device(torch.device("cpu"), torch.bfloat16)
    options = Options(rounds=2, peers=choose_peers("int_mm"), bandwidth_nbytes=1 << 16, device=device)
    report = bench_layers((Shape(64, 32),), (3,), (Weight(None), Weight(4), Weight(4, float_input=True)), options)
    assert [row.contender for row in report.rows][0] == report.settings["float"] == "torch bf16"
    assert all(row.reason is None and (row.deviation or 0) < 0.02 for row in report.rows)
    assert report.rows[0].weight_nbytes == 2 * 64 * 32
    assert report.rows[0].touched_nbytes == 2 * (64 * 32 + 3 * 96)
