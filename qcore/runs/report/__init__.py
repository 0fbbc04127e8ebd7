"""The report of a run: one self-contained page. Attributes load on first use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcore.lazy import lazy_attributes

if TYPE_CHECKING:
    from qcore.runs.report.section import Section
    from qcore.runs.report.write import write_report

__all__ = ["Section", "write_report"]

__getattr__, __dir__ = lazy_attributes(
    __name__, {"Section": "qcore.runs.report.section", "write_report": "qcore.runs.report.write"}
)
