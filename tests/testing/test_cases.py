from __future__ import annotations

import json
from types import ModuleType

import pytest

from qcore.testing.cases import Case, CheckFailedError, SkipCheck, checks_of, expect, run_case


def check_even(number: int) -> None:
    """Odd numbers are no good.

    More about it.
    """
    expect(number % 2 == 0, f"{number} is odd")


def check_hardware(number: int) -> None:
    """It runs on the device."""
    raise SkipCheck("there is no device")


def check_raises(number: int) -> None:
    """Foreign code may raise anything."""
    raise RuntimeError("boom")


def check_exits(number: int) -> None:
    """Foreign code may even exit."""
    raise SystemExit(3)


def test_a_case_is_named_by_its_check_and_subject() -> None:
    case = Case(check_even, 3)
    assert (case.name, case.id, case.reason) == ("even", "even[3]", "Odd numbers are no good.")


def test_a_check_that_holds_passes_without_a_message() -> None:
    result = run_case(Case(check_even, 2))
    assert (result.status, result.message, result.ok) == ("passed", "", True)


def test_a_check_that_does_not_hold_fails_with_what_is_wrong() -> None:
    result = run_case(Case(check_even, 3))
    assert (result.status, result.message, result.ok) == ("failed", "3 is odd", False)


def test_absent_hardware_is_skipped_with_its_reason() -> None:
    result = run_case(Case(check_hardware, 3))
    assert (result.status, result.message) == ("skipped", "there is no device")


@pytest.mark.parametrize("check", [check_raises, check_exits])
def test_whatever_foreign_code_raises_is_a_failure_that_says_where(check) -> None:
    result = run_case(Case(check, 3))
    assert result.status == "failed"
    assert "test_cases.py:" in result.message


def test_an_expected_failure_keeps_its_reason_and_what_failed() -> None:
    result = run_case(Case(check_even, 3), "upstream bug 12")
    assert (result.status, result.message, result.ok) == ("expected", "upstream bug 12 (3 is odd)", True)


def test_an_expected_failure_that_passes_is_a_failure() -> None:
    result = run_case(Case(check_even, 2), "upstream bug 12")
    assert result.status == "failed"
    assert "upstream bug 12" in result.message


def test_an_expected_failure_that_cannot_be_checked_is_skipped() -> None:
    assert run_case(Case(check_hardware, 2), "upstream bug 12").status == "skipped"


def test_expect_raises_an_assertion_error() -> None:
    with pytest.raises(AssertionError, match="so it is"):
        expect([], "so it is")
    with pytest.raises(CheckFailedError):
        expect(False, "")
    expect([0], "never")


def test_results_are_json_data() -> None:
    data = json.loads(json.dumps(run_case(Case(check_even, 3)).to_dict()))
    assert data["id"] == "even[3]" and data["subject"] == "3" and data["reason"] == "Odd numbers are no good."


def test_checks_of_a_module_are_its_own_in_order() -> None:
    module = ModuleType("some_checks")
    source = "def check_b(s): pass\ndef check_a(s): pass\ndef helper(s): pass\nfrom qcore.testing.codec_checks import *"
    exec(source, module.__dict__)
    vars(module)["check_foreign"] = check_even
    assert [check.__name__ for check in checks_of(module)] == ["check_b", "check_a"]
