"""Phases, which belong to training, under the name where a method looks for them."""

from __future__ import annotations

from qcore.training.phases import CosinePart, OptimizerConfig, Phase, Progress

__all__ = ["CosinePart", "OptimizerConfig", "Phase", "Progress"]
