from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from qcore_backend_cuda import machine
from qcore_backend_cuda.backend import CudaBackend

QUIET = """
import sys
from qcore_backend_cuda import qcore_backends
assert [spec.name for spec in qcore_backends()] == ["cuda"]
assert not {"torch", "triton"} & set(sys.modules)
import torch
from qcore_backend_cuda.backend import CudaBackend
probe = CudaBackend().probe()
assert "triton" not in sys.modules and not torch.cuda.is_initialized()
print(probe.available, probe.device, probe.reason)
"""


@pytest.fixture(autouse=True)
def _compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(machine.INTERPRET_VARIABLE, raising=False)


def test_importing_and_probing_loads_no_triton_and_initialises_no_cuda() -> None:
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, check=True)
    available = torch.cuda.is_available()
    assert done.stdout.startswith(f"{available} cuda"), done.stdout


def test_a_machine_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert "no NVIDIA GPU" in str(CudaBackend().probe().reason)


def test_a_torch_without_cuda_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    probe = CudaBackend().probe()
    assert not probe.available and "no CUDA" in str(probe.reason) and probe.details["hint"]


def test_a_missing_triton_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "find_spec", lambda name: None)
    assert "triton is not installed" in str(CudaBackend().probe().reason)


def test_a_gpu_that_is_too_old_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "old")
    probe = CudaBackend().probe()
    assert not probe.available and "7.5" in str(probe.reason)
