"""Every failure has its exit code, and none shows a traceback unless asked."""

from __future__ import annotations

import pytest

from qcore import errors
from qcore.cli.failures import report_failure
from qcore.plugins import PluginStatus


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.QcoreError("x"), 1),
        (errors.ModelFileError("x"), 1),
        (errors.UsageError("x"), 2),
        (errors.ConfigError("x"), 2),
        (errors.UnknownNameError("x"), 2),
        (errors.PluginError("x"), 3),
        (errors.BackendError("x"), 4),
        (errors.DataError("x"), 5),
        (errors.QuantizationError("x"), 5),
        (KeyboardInterrupt(), 130),
        (ValueError("x"), 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_each_error_has_its_exit_code(error, code, capsys):
    assert report_failure(error, debug=False) == code
    assert capsys.readouterr().out == ""


def test_message_and_hint_are_written_to_stderr(capsys):
    report_failure(errors.DataError("column 'a' holds NaN", "drop it"), debug=False)
    assert capsys.readouterr().err == "error: column 'a' holds NaN\nhint: drop it\n"


def raised(error: BaseException, file: str = __file__) -> BaseException:
    """Return ``error`` with a traceback that ends in ``file``."""
    code = compile("raise error", file, "exec")
    try:
        exec(code, {"error": error})  # a frame in another file is what this is about
    except BaseException as caught:
        return caught
    raise AssertionError


def test_an_unexpected_failure_is_short_and_names_debug(capsys):
    report_failure(raised(ValueError("too odd")), debug=False)
    text = capsys.readouterr().err
    assert text == "error: unexpected failure: ValueError: too odd\nhint: --debug shows the traceback\n"


def test_debug_shows_the_traceback(capsys):
    report_failure(raised(ValueError("too odd"), "somewhere.py"), debug=True)
    text = capsys.readouterr().err
    assert "Traceback (most recent call last)" in text
    assert "somewhere.py" in text


@pytest.mark.parametrize("file", ["/site/my_plugin/__init__.py", "/site/my_plugin.py"], ids=["package", "file"])
def test_the_plugin_in_whose_code_it_arose_is_named(file, capsys):
    plugin = PluginStatus("mine", "qcore-mine", "1.0", "loaded", file=file)
    other = PluginStatus("other", "qcore-other", "1.0", "loaded", file="/site/other/__init__.py")
    culprit = file.replace("__init__", "deep") if "__init__" in file else file
    report_failure(raised(ValueError("too odd"), culprit), debug=False, plugins=[other, plugin])
    text = capsys.readouterr().err
    assert "plugin 'mine' failed: ValueError: too odd" in text
    assert "--no-plugin mine" in text


def test_a_full_disk_is_said_in_the_words_of_the_system(capsys):
    assert report_failure(OSError(28, "No space left on device", "runs/a"), debug=False) == 1
    assert "No space left on device: runs/a" in capsys.readouterr().err
