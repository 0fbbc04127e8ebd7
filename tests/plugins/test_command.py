"""The command must answer with every plugin broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HOSTILE = {
    "raises": ("raise ValueError('no luck')", "qcore.plugins.v1"),
    "exits": ("import sys; print('to stdout'); sys.exit(3)", "qcore.plugins.v1"),
    "misspelt": (
        "from qcore import hookimpl\n@hookimpl\ndef qcore_quantisers(): return []",
        "qcore.plugins.v1",
    ),
    "older": ("raise RuntimeError('imported')", "qcore.plugins.v0"),
}


@pytest.fixture
def broken(publish, monkeypatch):
    """Publish one plugin of each hostile sort, and two that claim one name, for commands that are started after."""
    for name, (source, group) in HOSTILE.items():
        site = publish(name, source, group=group)
    publish("prize", distribution="alpha", version="1.1")
    publish("prize", distribution="beta", version="2.2")
    monkeypatch.setenv("PYTHONPATH", str(site) + os.pathsep + os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("TERM", "dumb")


def qcore(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "qcore", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("broken")
def test_each_hostile_plugin_is_one_clear_row_and_the_others_are_loaded():
    result = qcore("plugins", "--json")
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    mine = [row for row in rows if row["name"] in {*HOSTILE, "prize"}]
    states = sorted((row["name"], row["status"]) for row in mine)
    assert states == [
        ("exits", "failed"),
        ("misspelt", "failed"),
        ("older", "incompatible"),
        ("prize", "failed"),
        ("prize", "failed"),
        ("raises", "failed"),
    ]
    reasons = {row["name"]: row["reason"] for row in mine}
    assert "no luck" in reasons["raises"]
    assert "SystemExit" in reasons["exits"]
    assert "qcore_quantizers" in reasons["misspelt"]
    assert "upgrade qcore-older" in reasons["older"]
    assert "alpha 1.1" in reasons["prize"] and "beta 2.2" in reasons["prize"]
    assert all("\n" not in row["reason"] for row in mine)
    assert next(row for row in rows if row["name"] == "core")["status"] == "loaded"


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("command", [["--help"], ["plugins"], ["doctor"], ["list"], ["list", "tasks"]], ids=" ".join)
def test_the_command_works_with_broken_plugins(command):
    result = qcore(*command)
    assert result.returncode == (1 if command == ["doctor"] else 0), result.stderr  # it found something to mend
    assert "Traceback" not in result.stdout + result.stderr
    assert result.stdout.strip()


@pytest.mark.usefixtures("broken")
def test_a_listing_warns_once_a_broken_plugin_on_stderr_and_keeps_stdout_clean():
    result = qcore("list", "quantizers", "--json")
    names = {row["name"] for row in json.loads(result.stdout)}
    assert "core/int" in names
    for name in HOSTILE:
        assert len([line for line in result.stderr.splitlines() if f"'{name}'" in line]) >= 1, result.stderr


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("name", ["raises", "older", "prize"])
def test_naming_a_broken_plugin_is_fatal_with_exit_code_3(name):
    result = qcore("run", "--plugin", name, "--dry-run")
    assert result.returncode == 3, result.stderr
    assert name in result.stderr and "Traceback" not in result.stderr


@pytest.mark.usefixtures("broken")
def test_naming_a_plugin_that_is_not_there_exits_2_with_the_close_match():
    result = qcore("run", "--plugin", "raisess", "--dry-run")
    assert result.returncode == 2, result.stderr
    assert "raises" in result.stderr


@pytest.mark.usefixtures("broken")
def test_a_disabled_plugin_is_not_imported_and_not_warned_of():
    result = qcore("list", "tasks", "--json", "--no-plugin", "raises")
    assert result.returncode == 0, result.stderr
    assert "no luck" not in result.stderr
    everything = qcore("list", "tasks", "--json", "--no-plugins")
    assert everything.returncode == 0 and everything.stderr == ""
    assert {row["plugin"] for row in json.loads(everything.stdout)} == {"core"}


def test_a_local_file_can_be_listed_by_its_method(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(
        "from qcore import MethodSpec, hookimpl\n"
        "@hookimpl\n"
        "def qcore_methods():\n"
        "    return [MethodSpec(name='own', target='qcore.methods.float_baseline:FloatMethod',\n"
        "        config='qcore.methods.config:FloatConfig', summary='mine')]\n"
    )
    monkeypatch.chdir(tmp_path)
    result = qcore("run", "--plugin", "./own.py", "--task", "digits", "--dry-run")
    assert result.returncode == 0, result.stderr
