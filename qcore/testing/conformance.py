"""The checks as pytest cases. pytest is imported only when ``conformance`` is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from qcore.testing.cases import Case, run_case
from qcore.testing.collect import collect, match_expected

if TYPE_CHECKING:
    from qcore.plugins import Framework

__all__ = ["conformance"]


def conformance(
    name: str,
    *,
    expected_failures: Mapping[str, str] | None = None,
    framework: Framework | None = None,
) -> Callable[[Any], None]:
    """Return a pytest test function with one case for each check and each thing the plugin offers.

    Example::

        # tests/test_conformance.py
        from qcore.testing import conformance

        test_conformance = conformance("my_plugin", expected_failures={"gradient_is_finite": "learned by search, #12"})

    Args:
        name: a plugin, or the id of one thing it offers, such as ``my_plugin/ternary``.
        expected_failures: reasons by case id ``check[subject]``, or by check name for all its subjects. They are
            strict: an expected failure that passes is a failure.
        framework: the plugins to look in; the default framework if None.

    Raises:
        PluginError: if the plugin is not loaded.
        UsageError: if an expected failure names no case, or gives no reason.
    """
    import pytest

    cases = collect(name, framework)
    reasons = match_expected(cases, expected_failures or {})

    @pytest.mark.parametrize("case", [pytest.param(case, id=case.id) for case in cases])
    def test_conformance(case: Case) -> None:
        result = run_case(case, reasons.get(case.id))
        if result.status == "skipped":
            pytest.skip(result.message)
        if result.status == "expected":
            pytest.xfail(result.message)
        if result.status == "failed":
            pytest.fail(f"{result.id}\n  {result.message}\n  why it is checked: {result.reason}", pytrace=False)

    return test_conformance
