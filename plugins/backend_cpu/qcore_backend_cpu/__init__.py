"""Packed low-bit kernels for CPUs: AVX-512 VNNI, AVX2 and portable C++; AVX-VNNI on request.

This module is torch-free: it says what the plugin offers, and the core imports the rest on first use.
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
            name="cpu",
            target="qcore_backend_cpu.backend:CpuBackend",
            summary="packed low-bit kernels in C++ for any CPU, vectorized for x86-64",
            devices=("cpu",),
        )
    ]
