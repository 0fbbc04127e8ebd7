from __future__ import annotations

import sys

import pytest

from qcore.errors import UsageError
from qcore.foreign import ForeignError, guarded


def fail(error: BaseException):
    def work() -> None:
        raise error

    return work


def test_what_the_work_returns_is_returned():
    assert guarded("stage", lambda: 3) == 3


def test_an_exception_is_told_in_one_line_with_its_place_and_its_traceback_is_kept():
    with pytest.raises(ForeignError) as caught:
        guarded("import", fail(ValueError("two\n  lines")))
    error = caught.value
    assert error.stage == "import"
    assert error.reason.startswith("ValueError: two lines (test_foreign.py:")
    assert "Traceback" in error.details
    assert isinstance(error.__cause__, ValueError)


def test_an_exit_is_an_error_and_ctrl_c_is_not_caught():
    with pytest.raises(ForeignError, match="SystemExit: 3"):
        guarded("import", lambda: sys.exit(3))
    with pytest.raises(KeyboardInterrupt):
        guarded("import", fail(KeyboardInterrupt()))


def test_our_own_errors_are_told_as_they_are():
    with pytest.raises(ForeignError) as caught:
        guarded("specs", fail(UsageError("it was wrong", "do it right")))
    assert caught.value.reason == "it was wrong"


def test_the_innermost_stage_is_the_one_that_is_told():
    with pytest.raises(ForeignError) as caught:
        guarded("outer", lambda: guarded("inner", fail(ValueError("x"))))
    assert caught.value.stage == "inner"


def test_a_long_message_is_cut():
    with pytest.raises(ForeignError) as caught:
        guarded("import", fail(ValueError("x" * 10_000)))
    assert len(caught.value.reason) < 400


def test_prints_go_to_stderr(capsys):
    guarded("import", lambda: sys.stdout.write("data\n"))
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "data\n")
