"""Plans: a whole packed model in one call. Attributes load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcore.lazy import lazy_attributes

if TYPE_CHECKING:
    from qcore.nn.plan.builder import PlanBuilder
    from qcore.nn.plan.compile import Plan, compile_plan

__all__ = ["Plan", "PlanBuilder", "compile_plan"]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {"Plan": f"{__name__}.compile", "PlanBuilder": f"{__name__}.builder", "compile_plan": f"{__name__}.compile"},
)
