"""What the tests share: every instruction set that runs here, and layers to run on it."""

from __future__ import annotations

import pytest

from qcore_backend_cpu.native import ISA_VARIABLE, instruction_sets, load

_, _PROBLEM = load()
ISAS = [] if _PROBLEM else list(instruction_sets())

if _PROBLEM:
    pytest.skip(_PROBLEM, allow_module_level=True)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(ISA_VARIABLE, request.param)
    return str(request.param)
