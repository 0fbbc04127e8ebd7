"""One check on one subject: what it is called, how it is run, how it went."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import ModuleType
from typing import Any, Literal

from qcore.foreign import ForeignError, guarded

__all__ = ["Case", "CheckFailedError", "CheckResult", "SkipCheck", "checks_of", "expect", "run_case"]

Check = Callable[[Any], None]
Status = Literal["passed", "failed", "skipped", "expected"]


class CheckFailedError(AssertionError):
    """What a check found wrong."""


class SkipCheck(Exception):  # noqa: N818 - a signal, as pytest's Skipped is, not an error
    """Raised by a check that cannot be made here, with the reason: absent hardware or data."""


def expect(condition: object, message: str) -> None:
    """Raise CheckFailedError with ``message`` unless ``condition`` holds, also under ``python -O``."""
    if not condition:
        raise CheckFailedError(message)


@dataclass(frozen=True)
class Case:
    """One check on one subject.

    Attributes:
        check: the check's function, ``check_*(subject)``.
        subject: what is checked; its ``str`` is its name, such as ``core/int granularity='row'``.
    """

    check: Check
    subject: Any

    @property
    def name(self) -> str:
        """The check's name, without ``check_``."""
        return self.check.__name__.removeprefix("check_")

    @property
    def id(self) -> str:
        """``name[subject]``, unique within a plugin."""
        return f"{self.name}[{self.subject}]"

    @property
    def reason(self) -> str:
        """Why the check exists: the first line of its docstring."""
        return (inspect.getdoc(self.check) or "").partition("\n")[0]


@dataclass(frozen=True)
class CheckResult:
    """How one case went.

    Attributes:
        id: the case, ``check[subject]``.
        check: the check's name.
        subject: the name of what was checked.
        status: ``passed``, ``failed``, ``skipped`` (cannot be checked here), or ``expected`` (a failure with a reason).
        reason: why the check exists.
        message: what failed, or why it was skipped or expected; empty where it passed.
    """

    id: str
    check: str
    subject: str
    status: Status
    reason: str
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether this is no failure."""
        return self.status != "failed"

    def to_dict(self) -> dict[str, str]:
        """Return plain JSON data."""
        return asdict(self)


def checks_of(module: ModuleType) -> list[Check]:
    """Return the ``check_*`` functions that ``module`` defines, in the order of their definition."""
    return [
        value
        for name, value in vars(module).items()
        if name.startswith("check_") and inspect.isfunction(value) and value.__module__ == module.__name__
    ]


def run_case(case: Case, expected: str | None = None) -> CheckResult:
    """Run one case.

    Args:
        case: what to run.
        expected: why it is expected to fail, or None. Strict: an expected failure that passes is a failure.
    """
    status, message = _run(case)
    if expected is not None and status == "failed":
        status, message = "expected", f"{expected} ({message})"
    elif expected is not None and status == "passed":
        status, message = "failed", f"passed, but is listed as an expected failure: {expected}"
    return CheckResult(case.id, case.name, str(case.subject), status, case.reason, message)


def _run(case: Case) -> tuple[Status, str]:
    try:
        guarded("check", lambda: case.check(case.subject))
    except ForeignError as error:
        if isinstance(error.__cause__, SkipCheck):
            return "skipped", str(error.__cause__)
        if isinstance(error.__cause__, CheckFailedError):
            return "failed", str(error.__cause__)
        return "failed", error.reason
    return "passed", ""
