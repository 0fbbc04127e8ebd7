"""Start-up, guarded by the names of the modules that were imported, never by time."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "numpy",
    "scipy",
    "sklearn",
    "plotly",
    "triton",
    "matplotlib",
    "pandas",
    "lightning_fabric",
    "safetensors",
    "pytest",
)

# Runs a command as `python -m qcore` does, then says on stderr what it imported.
COMMAND = """
import runpy, sys
sys.argv = ["qcore", *{arguments!r}]
try:
    runpy.run_module("qcore", run_name="__main__", alter_sys=True)
except SystemExit as end:
    code = end.code
print("MODULES " + " ".join(sorted({{name.partition(".")[0] for name in sys.modules}})), file=sys.stderr)
sys.exit(code)
"""


def modules_after(code: str) -> set[str]:
    report = "\nimport sys, json; print(json.dumps(sorted({n.partition('.')[0] for n in sys.modules})))"
    result = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import qcore",
        "from qcore import Framework, QuantizerSpec, QcoreError, hookimpl, get",
        "from qcore.plugins import Framework; assert Framework().registry.list()",
        "from qcore.plugins import Framework; [s.listing() for s in Framework().registry]",
        "from qcore.plugins import Framework; Framework().provenance()",
    ],
    ids=["import qcore", "names", "framework", "listings", "provenance"],
)
def test_the_framework_starts_without(code):
    assert not set(HEAVY) & modules_after(code)


def test_importing_qcore_does_not_even_import_the_plugin_machinery():
    assert not {"pluggy", "pydantic", "typer", "rich"} & modules_after("import qcore")


def test_every_config_of_every_plugin_is_imported_without_torch():
    code = "from qcore.plugins import Framework\nfor spec in Framework().registry: spec.load_config()"
    assert not set(HEAVY) & modules_after(code)


def test_the_names_of_the_package_all_resolve():
    import qcore

    for name in qcore.__all__:
        assert getattr(qcore, name) is not None, name
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = qcore.no_such_name


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["bench", "--help"],
        ["list"],
        ["list", "quantizers", "--json"],
        ["plugins"],
        ["plugins", "--json"],
        ["info", "core/int"],
    ],
    ids=" ".join,
)
def test_the_command_starts_without(arguments):
    result = subprocess.run(
        [sys.executable, "-c", COMMAND.format(arguments=arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TERM": "dumb"},
    )
    assert result.returncode == 0, result.stderr
    (report,) = [line for line in result.stderr.splitlines() if line.startswith("MODULES ")]
    assert not set(HEAVY) & set(report.split())
