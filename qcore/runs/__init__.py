"""Runs: what ``qcore run`` does, from options to evidence on disk. Attributes load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcore.lazy import lazy_attributes

if TYPE_CHECKING:
    from qcore.runs.comparison import Comparison, compare
    from qcore.runs.config import RunConfig
    from qcore.runs.planning import Plan
    from qcore.runs.rundir import Job, Run
    from qcore.runs.session import plan, run

_HOMES = {
    "Comparison": "qcore.runs.comparison",
    "Job": "qcore.runs.rundir",
    "Plan": "qcore.runs.planning",
    "Run": "qcore.runs.rundir",
    "RunConfig": "qcore.runs.config",
    "compare": "qcore.runs.comparison",
    "plan": "qcore.runs.session",
    "run": "qcore.runs.session",
}

__all__ = ["Comparison", "Job", "Plan", "Run", "RunConfig", "compare", "plan", "run"]

__getattr__, __dir__ = lazy_attributes(__name__, _HOMES)
