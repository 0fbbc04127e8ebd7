"""Methods: a paper's recipe as phases, arms and claims; the built-in ``float`` and ``ptq``.

Attributes load on first use, so that a plugin's torch-free config module can import ``qcore.methods.config``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcore.lazy import lazy_attributes

if TYPE_CHECKING:
    from qcore.methods.base import Arm, Method
    from qcore.methods.claims import Claim, Verdict, judge
    from qcore.methods.config import MethodConfig
    from qcore.methods.evidence import Evidence, MissingEvidenceError
    from qcore.methods.phases import CosinePart, OptimizerConfig, Phase, Progress

__all__ = [
    "Arm",
    "Claim",
    "CosinePart",
    "Evidence",
    "Method",
    "MethodConfig",
    "MissingEvidenceError",
    "OptimizerConfig",
    "Phase",
    "Progress",
    "Verdict",
    "judge",
]

_HOMES = {
    "Arm": "base",
    "Claim": "claims",
    "CosinePart": "phases",
    "Evidence": "evidence",
    "Method": "base",
    "MethodConfig": "config",
    "MissingEvidenceError": "evidence",
    "OptimizerConfig": "phases",
    "Phase": "phases",
    "Progress": "phases",
    "Verdict": "claims",
    "judge": "claims",
}

__getattr__, __dir__ = lazy_attributes(__name__, {name: f"{__name__}.{home}" for name, home in _HOMES.items()})
