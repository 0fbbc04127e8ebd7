"""Conformance: plain ``check_*(subject)`` functions that any plugin can run on what it offers.

Three ways to run the same checks::

    qcore check my_plugin                                  # a terminal
    run_checks("my_plugin")                                # Python: a list of CheckResult
    test_conformance = conformance("my_plugin")            # pytest: one case for each check and offer

Importing this package imports neither torch nor pytest. The checks need neither pytest nor hypothesis.
"""

from __future__ import annotations

from qcore.testing.cases import Case, CheckFailedError, CheckResult, SkipCheck, expect
from qcore.testing.collect import collect, run_checks
from qcore.testing.conformance import conformance

__all__ = [
    "Case",
    "CheckFailedError",
    "CheckResult",
    "SkipCheck",
    "collect",
    "conformance",
    "expect",
    "run_checks",
]
