"""Code in the pages that is marked as runnable runs: page by page, in an empty folder.

A block is marked by a word after its language: ``run``, or ``file=NAME`` for one that is a file.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PAGES = {path.name: path for path in sorted((Path(__file__).parents[1] / "docs").glob("*.md"))}


class Block(NamedTuple):
    language: str
    mark: str
    text: str
    line: int


def marked(page: str) -> list[Block]:
    text = PAGES[page].read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w+) ([^\n]+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], match[3], text[: match.start()].count("\n") + 1) for match in found]


def with_classes(block: str, folder: Path) -> str:
    """Return ``block`` with the classes that it says stand in ``my_quant.py``."""

    def fetch(match: re.Match[str]) -> str:
        source = (folder / "my_quant.py").read_text(encoding="utf-8")
        classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == match[1]]
        assert classes, f"my_quant.py has no class {match[1]}"
        return f"\n{ast.get_source_segment(source, classes[0])}"

    return re.sub(r"^# class (\w+), as above$", fetch, block, flags=re.MULTILINE)


def environment(**changes: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "QCORE_WORKERS": "1", **changes}


def run(command: list[str], folder: Path, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment(**changes), capture_output=True, text=True, timeout=300, check=False
    )


def write_marked(page: str, folder: Path) -> Iterator[Block]:
    """Write the blocks that are files; yield those that are to run, in their order."""
    for block in marked(page):
        if block.mark.startswith("file="):
            file = folder / block.mark.removeprefix("file=")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(with_classes(block.text, folder), encoding="utf-8")
        else:
            assert block.mark == "run" and block.language in ("python", "sh"), f"{page}:{block.line}"
            yield block


@pytest.mark.parametrize("page", [name for name in PAGES if marked(name)])
def test_the_marked_code_of_a_page_runs(page, tmp_path):
    for block in write_marked(page, tmp_path):
        shell = ["bash", "-euo", "pipefail", "-c", block.text]
        done = run([sys.executable, "-c", block.text] if block.language == "python" else shell, tmp_path)
        assert done.returncode == 0, f"{page}:{block.line}\n{done.stdout}\n{done.stderr}"


def test_the_config_file_of_the_page_is_a_plan(tmp_path):
    list(write_marked("cli.md", tmp_path))
    done = run([sys.executable, "-m", "qcore", "run", "--config", "run.toml", "--dry-run", "--json"], tmp_path)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["method"] == "core/ptq" and plan["task"]["task"] == "core/breast_cancer" and plan["jobs"] == 12
    assert plan["config"]["settings"]["quantizer"] == "core/int(bits=4)"


def test_the_pasted_plugin_fails_the_one_check_that_the_page_names(tmp_path):
    list(write_marked("writing-a-plugin.md", tmp_path))
    done = run([sys.executable, "-m", "qcore", "check", "./my_quant.py", "--json"], tmp_path)
    results = json.loads(done.stdout)
    assert [result["check"] for result in results if result["status"] == "failed"] == ["import_needs_no_torch"]
    assert len(results) > 100


def test_the_plugin_of_the_page_is_a_distribution_that_passes_its_own_tests(tmp_path):
    list(write_marked("writing-a-plugin.md", tmp_path))
    (tmp_path / "qcore_my_quant" / "py.typed").touch()
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = tmp_path / "qcore_my_quant-0.1.0.dist-info"
    info.mkdir()
    ((group, entries),) = project["entry-points"].items()
    lines = "\n".join(f"{name} = {value}" for name, value in entries.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{lines}\n")
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.4\nName: {project['name']}\nVersion: 0.1.0\nSummary: {project['description']}\n"
        f"License-Expression: {project['license']}\n"
        + "".join(f"Requires-Dist: {requirement}\n" for requirement in project["dependencies"])
        + "\nIts README.\n"
    )
    (info / "RECORD").touch()
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_conformance.py"]
    done = run(command, tmp_path, PYTHONPATH=str(tmp_path), PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout and "failed" not in done.stdout
