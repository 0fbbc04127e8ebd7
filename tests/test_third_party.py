"""A plugin of a third party, installed with pip: listed, run, saved, and its file opened without it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "fixtures" / "example_plugin"


def call(*arguments: str | Path, path: Path | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python with ``path`` in front of its own; the plugin is there or it is not."""
    environment = {**os.environ, "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=cwd)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that pip installed the plugin into."""
    pytest.importorskip("pip", reason="the plugin is installed with pip")
    pytest.importorskip("flit_core", reason="the plugin is built with flit_core, without a download")
    target = tmp_path_factory.mktemp("site")
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    result = call("-m", "pip", "install", *options, "--target", target, SOURCE)
    assert result.returncode == 0, result.stderr
    return target


@pytest.fixture(scope="module")
def run(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the plugin's method."""
    folder = tmp_path_factory.mktemp("runs")
    settings = ["--set", "epochs=2", "--set", "hidden=[16]", "--folds", "2", "--workers", "1"]
    result = call(
        *("-m", "qcore", "run", "--plugin", "example", "--task", "digits", "--out", "out"),
        *settings,
        path=site,
        cwd=folder,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "out"


def test_it_is_listed_with_its_distribution_and_version(site):
    rows = json.loads(call("-m", "qcore", "plugins", "--json", path=site).stdout)
    (row,) = [row for row in rows if row["name"] == "example"]
    assert (row["distribution"], row["version"], row["status"]) == ("qcore-example", "0.3.0", "loaded")
    listed = json.loads(call("-m", "qcore", "list", "quantizers", "--json", path=site).stdout)
    assert "example/absmean2" in {row["name"] for row in listed}


def test_it_is_not_listed_where_it_is_not_installed():
    rows = json.loads(call("-m", "qcore", "plugins", "--json").stdout)
    assert "example" not in {row["name"] for row in rows}


def test_it_passes_the_conformance_checks(site):
    result = call("-m", "qcore", "check", "example", path=site)
    assert result.returncode == 0, result.stdout + result.stderr


def test_its_run_trains_both_arms_and_packs_what_it_trained(run):
    summary = json.loads((run / "summary.json").read_text())
    assert summary["plugin"] == "example/example"
    assert set(summary["arms"]) == {"float", "absmean2"}
    assert summary["arms"]["absmean2"]["nbytes"] < summary["arms"]["float"]["nbytes"]
    record = json.loads((run / "run.json").read_text())
    assert "example" in json.dumps(record["plugins"]) and "qcore-example" in json.dumps(record["plugins"])


@pytest.fixture(scope="module")
def model(run: Path) -> Path:
    """A model file of the two-bit arm."""
    return run / "absmean2" / "fold-0" / "model.safetensors"


def test_its_file_is_inspected_without_it_and_says_what_to_install(model):
    result = call("-m", "qcore", "inspect", model)
    assert result.returncode == 0, result.stderr
    assert "pip install qcore-example" in result.stdout + result.stderr
    data = call("-m", "qcore", "inspect", model, "--json")
    assert data.returncode == 0 and "qcore-example" in json.dumps(json.loads(data.stdout))


def test_its_file_is_inspected_from_python_without_it(model):
    code = f"import qcore; file = qcore.inspect({str(model)!r}); print(file.plugins); print(len(file.tensors))"
    result = call("-c", code)
    assert result.returncode == 0, result.stderr
    assert "qcore-example" in result.stdout


def test_a_new_run_without_it_names_what_is_missing(tmp_path):
    result = call("-m", "qcore", "run", "--plugin", "example", "--task", "digits", "--dry-run", cwd=tmp_path)
    assert result.returncode == 2, result.stdout + result.stderr
    assert "example" in result.stderr
    code = "import qcore; qcore.get('quantizer', 'example/absmean2')"
    error = call("-c", code)
    assert error.returncode != 0 and "pip install qcore-example" in error.stderr
