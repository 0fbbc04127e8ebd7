"""How the command starts and ends."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from qcore.cli.app import app, hoist


def in_terminal(*arguments: str, **environment: str) -> str:
    """Run the command on a terminal of its own and return what it wrote there."""
    controller, terminal = pty.openpty()
    settings = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")}
    process = subprocess.Popen(
        [sys.executable, "-m", "qcore", *arguments],
        stdout=terminal,
        stderr=terminal,
        env={**settings, "COLUMNS": "100", **environment},
    )
    os.close(terminal)
    parts = []
    while True:
        try:
            part = os.read(controller, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(controller)
    process.wait()
    return b"".join(parts).decode()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["list", "--debug"], ["--debug", "list"]),
        (["list", "-q", "--json"], ["-q", "list", "--json"]),
        (["list", "--no-plugin", "x", "tasks"], ["--no-plugin", "x", "list", "tasks"]),
        (["list", "--no-plugin=x"], ["--no-plugin=x", "list"]),
        (["list", "--", "--debug"], ["list", "--", "--debug"]),
        (["list", "--no-plugin"], ["--no-plugin", "list"]),
    ],
)
def test_global_options_may_stand_anywhere_before_a_double_dash(given, expected):
    assert hoist(given) == expected


def test_the_version_is_printed_alone(qcore):
    import qcore as package

    assert qcore("--version").stdout == f"qcore {package.__version__}\n"


def test_help_names_every_command(qcore):
    text = qcore("--help").stdout
    names = "run list info plugins doctor check compare eval predict pack inspect explain"
    assert [name for name in names.split() if f" {name} " not in text] == []


@pytest.mark.parametrize("command", typer.main.get_command(app).commands)
def test_no_default_is_lost_from_a_description(qcore, command):
    text = qcore(command, "--help", env={"COLUMNS": "300"}).stdout
    assert "--help" in text
    assert not [line for line in text.splitlines() if re.search(r"\s\.[\s│]*$", line)]


@pytest.mark.parametrize("words", [["nonsense"], ["list", "--nonsense"], ["run", "--folds", "many"], ["info"]])
def test_bad_usage_ends_with_2(qcore, words):
    result = qcore(*words)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr


def test_a_misspelt_command_gets_its_close_match(qcore):
    assert "doctor" in qcore("docter").stderr


def test_disabled_plugins_offer_nothing(qcore):
    names = [line.split()[0] for line in qcore("list", "quantizers", "--no-plugins").stdout.splitlines()[2:] if line]
    assert names == ["core/int"]


def test_a_reader_that_has_seen_enough_hears_nothing():
    command = f"{sys.executable} -m qcore list --json | head -n 1; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["[", "0"]
    assert result.stderr == ""


@pytest.mark.parametrize("words", ["list", "list --json"])
def test_a_reader_that_reads_nothing_is_no_failure(words):
    command = f"{sys.executable} -m qcore {words} | true; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("0\n", "")


@pytest.mark.parametrize("environment", [{"TERM": "xterm", "NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_there_are_no_escape_codes_where_they_are_not_wanted(environment):
    text = in_terminal("info", "core/int", **environment)
    assert "granularity" in text
    assert "\x1b" not in text


def test_a_terminal_gets_an_error_in_a_panel():
    text = in_terminal("info", "nonsens", TERM="xterm-256color")
    assert "╭─ error ─" in re.sub("\x1b\\[[0-9;]*m", "", text)
    assert "Traceback" not in text


def test_a_log_gets_an_error_in_plain_lines(qcore):
    result = qcore("info", "core/itn")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: nothing is called 'core/itn'\nhint: did you mean 'core/int'")


def test_the_runner_of_other_tests_keeps_the_streams_apart():
    result = CliRunner().invoke(app, ["list", "nonsense"])
    assert (result.exit_code, result.stdout) == (2, "")
