"""What the tests share: every instruction set that runs here, and numbers of threads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from qcore_backend_cpu.native import ISA_VARIABLE, instruction_sets, load

_, _PROBLEM = load()
ISAS = [] if _PROBLEM else list(instruction_sets())

if _PROBLEM:
    pytest.skip(_PROBLEM, allow_module_level=True)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(ISA_VARIABLE, request.param)
    return str(request.param)


@pytest.fixture(params=[1, 2, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)
