"""The machine and the process in which a benchmark ran. Torch-free."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

__all__ = ["CPU_FLAGS", "cpu_flags", "cpu_name", "last_level_nbytes", "machine_facts", "package_version"]

CPU_FLAGS = ("avx2", "fma", "avx512f", "avx512bw", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "sve")
"""Instruction sets that low-bit kernels care for, as Linux names them."""

ASSUMED_CACHE = 32 << 20
"""Bytes of the last-level cache where the system does not tell."""

_CPU = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def machine_facts(packages: Iterable[str] = ()) -> dict[str, Any]:
    """Return date, processor, cores, load, cache and versions; ``packages`` are named where they are installed.

    ``load`` is the mean number of busy processes in the last minute: above 0, others were at work too.
    """
    versions = {name: package_version(name) for name in ("torch", "numpy", *packages)}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "flags": cpu_flags(),
        "last_level_nbytes": last_level_nbytes(),
        "python": platform.python_version(),
        "qcore": package_version("qcore-ml"),
        "versions": {name: found for name, found in versions.items() if found is not None},
        "wait_policy": os.environ.get("OMP_WAIT_POLICY"),
    }


def package_version(name: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def cpu_name() -> str:
    """Return the processor's name as the system tells it."""
    names = _cpuinfo("model name")
    return names or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Return which of :data:`CPU_FLAGS` the processor has; none are known but on Linux."""
    found = (_cpuinfo("flags") or _cpuinfo("features")).split()
    return [flag for flag in CPU_FLAGS if flag in found]


def last_level_nbytes() -> int:
    """Return the bytes of the largest cache of core 0; :data:`ASSUMED_CACHE` where the system does not tell."""
    try:
        sizes = [(path / "size").read_text(encoding="ascii").strip() for path in _CPU.glob("index*")]
    except OSError:
        sizes = []
    found = [re.fullmatch(r"(\d+)([KMG]?)", size) for size in sizes]
    return max((int(match[1]) * _UNITS[match[2]] for match in found if match), default=ASSUMED_CACHE)


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.lower().startswith(key)), "")
