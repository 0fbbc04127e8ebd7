"""Errors of the plugin. Torch-free."""

from __future__ import annotations

from qcore.errors import UsageError

__all__ = ["BudgetInfeasible"]


class BudgetInfeasible(UsageError):  # noqa: N818 - the name that its users look for
    """No choice of widths meets the budget.

    Attributes:
        smallest_nbytes: what the smallest choice takes.
    """

    def __init__(self, message: str, hint: str | None = None, *, smallest_nbytes: int) -> None:
        super().__init__(message, hint)
        self.smallest_nbytes = smallest_nbytes
