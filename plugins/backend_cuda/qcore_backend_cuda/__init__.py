"""Packed low-bit kernels for NVIDIA GPUs, in Triton.

This module is free of torch and Triton: it says what the plugin offers, and the core imports the rest on first use.
"""

from __future__ import annotations

from qcore.hookspecs import hookimpl
from qcore.registry import BackendSpec

__all__ = ["qcore_backends"]

__version__ = "0.1.0"


@hookimpl
def qcore_backends() -> list[BackendSpec]:
    """Return the backend."""
    return [
        BackendSpec(
            name="cuda",
            target="qcore_backend_cuda.backend:CudaBackend",
            summary="packed low-bit kernels in Triton for NVIDIA GPUs",
            devices=("cuda",),
        )
    ]
