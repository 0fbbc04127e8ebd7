"""Provenance: what made a run. All of it is facts about this process and this machine."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qcore.plugins import Framework

__all__ = ["changed_plugins", "git_state", "provenance"]

PACKAGES = ("qcore-ml", "torch", "lightning-fabric", "numpy", "scipy", "scikit-learn", "safetensors", "pydantic")


def provenance(framework: Framework, command: list[str] | None = None) -> dict[str, Any]:
    """Return command, versions, plugins with their files' hashes, git state, machine and backends."""
    return {
        "command": command if command is not None else list(sys.argv),
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}},
        "plugins": framework.provenance(),
        "git": git_state(),
        "device": _device(),
        "backends": _backends(framework),
    }


def changed_plugins(record: Mapping[str, Any]) -> list[str]:
    """Return the plugins whose files are not what they were when the run of ``record`` was started."""
    if not record["resumed"]:
        return []
    then, again = record["plugins"], record["resumed"][-1]["plugins"]
    return [name for name in then if name in again and then[name]["files_sha256"] != again[name]["files_sha256"]]


def git_state() -> dict[str, Any]:
    """Return commit, whether files differ from it, and a hash of how, for the working directory; null with a reason."""
    commit = _git("rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "dirty": None, "diff_sha256": None, "reason": "not in a git repository"}
    status, diff = _git("status", "--porcelain") or "", _git("diff", "HEAD") or ""
    digest = hashlib.sha256((status + diff).encode()).hexdigest() if status else None
    return {"commit": commit.strip(), "dirty": bool(status), "diff_sha256": digest, "reason": None}


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _device() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "gpus": gpus,
    }


def _backends(framework: Framework) -> list[dict[str, Any]]:
    from qcore.backends import find_backends

    candidates, _ = find_backends("auto", framework.registry)
    probes = [(candidate.id, candidate.backend.probe()) for candidate in candidates]
    return [
        {"name": name, "available": found.available, "device": found.device, "reason": found.reason}
        for name, found in probes
    ]
