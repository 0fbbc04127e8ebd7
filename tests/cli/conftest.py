"""The command in this process, and one small finished run that several tests look at."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from qcore.cli.app import app
from qcore.plugins import reset_default

Invoke = Callable[..., Any]


def invoke(*arguments: object, env: dict[str, str | None] | None = None) -> Any:
    """Run the command here and return exit_code, stdout and stderr."""
    settings = {"COLUMNS": "160", "TERM": "dumb", "QCORE_DEBUG": None, **(env or {})}
    try:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], env=settings, prog_name="qcore")
    finally:
        reset_default()


@pytest.fixture
def qcore() -> Invoke:
    return invoke


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 90 rows: two features, a class that follows from them, and a group."""
    path = tmp_path_factory.mktemp("data") / "flowers.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["width", "length", "kind", "garden"])
        for row in range(90):
            kind = row % 3
            writer.writerow([kind + 0.01 * (row % 7), 2 - kind + 0.02 * (row % 5), "abc"[kind], row // 3])
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, table: Path) -> Iterator[SimpleNamespace]:
    """A run of two arms on two folds, made by the command."""
    out = tmp_path_factory.mktemp("runs") / "first"
    words = ("run", "-p", "ptq", "--data", table, "--target", "kind", "--group", "garden", "--folds", "2")
    settings = ("--set", "epochs=2", "--set", "hidden=[8]", "--workers", "1", "--no-latency", "--out", out)
    result = invoke(*words, *settings)
    assert result.exit_code == 0, result.stderr
    summary = json.loads((out / "summary.json").read_text())
    yield SimpleNamespace(path=out, result=result, summary=summary, model=out / "ptq" / "fold-0" / "model.safetensors")
