"""What this machine has: a driver, Triton, a GPU that is new enough; without initialising CUDA."""

from __future__ import annotations

import os
from functools import cache
from importlib.util import find_spec

import torch

from qcore.backends import Probe

__all__ = ["CAPABILITY", "INTERPRET_VARIABLE", "interpreted", "look"]

INTERPRET_VARIABLE = "TRITON_INTERPRET"
"""Triton's own variable: ``1`` when it is imported makes kernels run in Python on CPU tensors, for tests."""

CAPABILITY = (8, 0)
"""The lowest compute capability: int8 and bfloat16 on tensor cores."""


def interpreted() -> bool:
    """Return whether Triton's interpreter runs the kernels, on the CPU."""
    return os.environ.get(INTERPRET_VARIABLE) == "1"


def look() -> Probe:
    """Say whether kernels run here, on what, or why not.

    The GPUs' names and capabilities are told only where CUDA is initialised already: this must not do it, since that
    takes memory on each GPU and forbids to fork.
    """
    if find_spec("triton") is None:
        hint = "pip install triton (torch's CUDA builds bring it)"
        return Probe(False, "cuda", "triton is not installed", {"hint": hint})
    if interpreted():
        return Probe(True, "cpu", None, {"interpreter": f"{INTERPRET_VARIABLE}=1: for tests, slow"})
    if torch.version.cuda is None:
        return Probe(False, "cuda", "this build of torch has no CUDA", {"hint": "install a CUDA build of torch"})
    count = torch.cuda.device_count()
    if not count:
        return Probe(False, "cuda", "no NVIDIA GPU or no driver for it")
    details = {"gpus": str(count), "cuda": str(torch.version.cuda)}
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        found = [torch.cuda.get_device_capability(i) for i in range(count)]
        details["names"] = ", ".join(torch.cuda.get_device_name(i) for i in range(count))
        if max(found) < CAPABILITY:
            return Probe(
                False, "cuda", f"compute capability {_told(max(found))}: {_told(CAPABILITY)} is needed", details
            )
    return Probe(True, "cuda", None, details)


@cache
def capability(device: torch.device) -> tuple[int, int]:
    """Return the compute capability of a CUDA device that is in use."""
    return torch.cuda.get_device_capability(device)


def _told(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
