"""Which process owns a run, and whether it still lives."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

__all__ = ["is_alive", "now", "this_process"]


def now() -> str:
    """Return the time in UTC, as in ``2026-01-31T12:00:00Z``."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def this_process() -> dict[str, Any]:
    """Return pid, host and the process's start, which tells it from a later one with the same pid."""
    return {"pid": os.getpid(), "host": platform.node(), "process_start": _start(os.getpid())}


def is_alive(record: Mapping[str, Any]) -> bool:
    """Return whether the process that ``this_process`` described runs; True for one on another host."""
    if record["host"] != platform.node():
        return True
    try:
        os.kill(record["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    known = record.get("process_start")
    return known is None or known == _start(record["pid"])


def _start(pid: int) -> int | None:
    """Return the process's start in clock ticks after boot; None where the system has no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return int(fields[19])
    except (OSError, ValueError, IndexError):
        return None
