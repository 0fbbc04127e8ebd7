from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qcore.backends import find_backends

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
(EXAMPLE,) = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("backend", ["core/reference", "auto"])
def test_the_example_runs_elsewhere_and_does_what_it_says(tmp_path, monkeypatch, backend):
    monkeypatch.delenv("QCORE_BACKEND", raising=False)
    best = next(candidate.id for candidate in find_backends(backend)[0] if candidate.backend.probe().available)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "QCORE_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, "-c", EXAMPLE], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "equal to eval, bit for bit: True" in done.stdout
    for layer in (f"moe.experts.{expert}.blocks.0.linear" for expert in range(3)):
        assert f"{layer}: {best}" in done.stdout
    (accuracy,) = re.findall(r"accuracy: ([0-9.]+)", done.stdout)
    assert float(accuracy) > 0.8, "ten classes, of which one in ten is guessed right"
    assert [path.name for path in tmp_path.iterdir()] == ["mixture.safetensors"]


def test_the_example_is_short():
    statements = [node for node in ast.walk(ast.parse(EXAMPLE)) if isinstance(node, ast.stmt)]
    assert sum(not isinstance(node, ast.Import | ast.ImportFrom) for node in statements) <= 19


def test_every_plugin_that_is_here_is_in_the_table():
    rows = dict(re.findall(r"^\| \[?`(\w+)`.*\| (here|planned) \|$", TEXT, flags=re.MULTILINE))
    here = {path.name for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").is_file()}
    assert {name for name, state in rows.items() if state == "here"} == {"core", *here}


def test_every_offer_of_the_installed_plugins_is_named():
    from qcore import Framework

    framework = Framework()
    for spec in framework.registry:
        if spec.kind in ("quantizer", "router", "backend", "method"):
            assert f"`{spec.id}`" in TEXT or f"method `{spec.name}`" in TEXT, f"{spec.kind} {spec.id}"


def test_it_names_both_commands_the_real_distribution_and_the_danger():
    for words in ("make run", "make test", "qcore-ml", "runs with your rights", "Apache-2.0", "qcore run --resume"):
        assert words in TEXT, words


def test_no_path_of_a_machine_is_in_it():
    assert not re.findall(r"(?<![\w.])/(?:home|work|tmp|root|Users)/", TEXT)
