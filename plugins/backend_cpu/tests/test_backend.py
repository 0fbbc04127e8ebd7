from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import qcore
from qcore.tensor.arithmetic import Conv2dShape
from qcore_backend_cpu import native
from qcore_backend_cpu.backend import CpuBackend
from qcore_backend_cpu.testing import TOKENS, kernels, make_request, make_weight

INPUT = 'core/int(bits=8, granularity="token")'


def test_a_packed_model_runs_here_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QCORE_BACKEND", raising=False)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    quantized = qcore.quantize(model, {"*": {"weight": "core/int(bits=4)", "input": INPUT}})
    packed = qcore.pack(quantized)
    rows = qcore.explain(packed).rows
    assert [row["backend"] for row in rows] == ["backend_cpu/cpu"] * 2
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(packed(x), quantized.eval()(x))


def test_the_variable_forces_an_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_CPU_ISA", "portable")
    ours, _ = kernels(make_weight("int", 4, (5, 6)), TOKENS)
    assert "portable" in ours.name
    assert CpuBackend().probe().details["isa"] == "portable"


@pytest.fixture
def every_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend a processor that supports all instruction sets, with the compiled module's own say on each."""
    module, _ = native.load()
    found = [(name, True, automatic) for name, _, automatic in module.instruction_sets()]
    monkeypatch.delenv(native.ISA_VARIABLE, raising=False)
    monkeypatch.setattr(native, "load", lambda: (SimpleNamespace(instruction_sets=lambda: found), None))


@pytest.mark.usefixtures("every_instruction_set")
def test_what_was_never_run_is_not_chosen_unasked_and_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    found = native.instruction_sets()
    assert native.chosen_isa() == next(iter(found)) and not set(native.UNTRIED) & {native.chosen_isa()}
    assert {name for name, automatic in found.items() if automatic} <= {"avx512vnni", "avx2", "portable"}
    for name in set(native.UNTRIED) & set(found):
        assert name in CpuBackend().probe().details["untried"]
        assert "not yet run on such a machine" in CpuBackend().probe().details["untried"]
        monkeypatch.setenv(native.ISA_VARIABLE, name)
        assert native.chosen_isa() == name


def test_unasked_it_runs_the_best_that_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(native.ISA_VARIABLE, raising=False)
    expected = next(name for name in ("avx512vnni", "avx2", "portable") if name in native.instruction_sets())
    assert CpuBackend().probe().details["isa"] == expected
    ours, _ = kernels(make_weight("int", 4, (5, 6)), TOKENS)
    assert f" {expected}," in ours.name


def test_an_instruction_set_that_is_not_here_makes_it_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_CPU_ISA", "abacus")
    probe = CpuBackend().probe()
    assert not probe.available
    assert "abacus" in str(probe.reason)


def test_what_it_cannot_run_it_rejects_with_a_reason() -> None:
    backend = CpuBackend()
    conv = make_request(make_weight("int", 4, (5, 3, 3, 3)), None, conv=Conv2dShape())
    grouped = make_request(make_weight("int", 4, (5, 3, 3, 3), group_size=9), TOKENS, conv=Conv2dShape())
    uneven = make_request(make_weight("int", 4, (5, 3, 3, 3)), TOKENS, conv=Conv2dShape(groups=2))
    for request in (grouped, uneven):
        assert backend.reject(request)
    assert backend.reject(conv) is None
    assert "balanced" in str(backend.reject(replace(conv, encoding="balanced")))
