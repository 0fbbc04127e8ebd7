"""Without a GPU the kernels run in Triton's interpreter, which must be asked for before Triton is imported."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch

from qcore_backend_cuda.machine import INTERPRET_VARIABLE

if find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

ON_GPU = torch.cuda.is_available() and os.environ.get(INTERPRET_VARIABLE) != "1"
DEVICE = "cuda" if ON_GPU else "cpu"


def _import_kernels() -> None:
    """Import the kernels for the interpreter, and leave the environment of other tests as it was."""
    before = os.environ.get(INTERPRET_VARIABLE)
    os.environ[INTERPRET_VARIABLE] = "1"
    import qcore_backend_cuda.experts
    import qcore_backend_cuda.prepare
    import qcore_backend_cuda.training  # noqa: F401

    if before is None:
        del os.environ[INTERPRET_VARIABLE]


if not ON_GPU:
    _import_kernels()


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    if not ON_GPU:
        monkeypatch.setenv(INTERPRET_VARIABLE, "1")


@pytest.fixture
def device() -> torch.device:
    return torch.device(DEVICE)
