from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qcore.errors import PluginError, UnknownNameError, UsageError
from qcore.plugins import Framework
from qcore.testing import collect, conformance, run_checks

PLUGIN = '''
"""A plugin of one quantizer."""
from qcore import QuantizerSpec, hookimpl

@hookimpl
def qcore_quantizers():
    return [QuantizerSpec(name="plain", target="qcore.quantizers.integer:IntQuantizer",
                          config="qcore.quantizers.config:IntConfig", summary="for a test")]
'''


@pytest.fixture
def core() -> Framework:
    return Framework(load=False)


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "local_plugin.py"
    path.write_text(PLUGIN)
    return path


def test_case_ids_are_unique(core: Framework) -> None:
    ids = [case.id for case in collect("core", core)]
    assert len(set(ids)) == len(ids)


def test_every_kind_that_the_core_offers_is_checked(core: Framework) -> None:
    ids = {case.id for case in collect("core", core)}
    for wanted in (
        "packed_equals_eval[core/int]",
        "packed_equals_eval[core/int(granularity='group', group_size=4)]",
        "weights_are_shares[core/topk]",
        "integer_linear_is_exact[core/reference]",
        "arms_can_be_compared[core/ptq]",
        "rebuilt_from_its_architecture[core/mlp]",
        "folds_are_disjoint[core/digits]",
        "target_is_of_its_kind[core/safetensors]",
        "import_needs_no_torch[core]",
    ):
        assert wanted in ids
    assert any(case_id.startswith("round_trip_is_exact[") and "trit5@1" in case_id for case_id in ids)


def test_every_check_has_a_reason(core: Framework) -> None:
    assert all(case.reason.endswith((".", "?")) for case in collect("core", core))


def test_one_offer_can_be_checked_alone(core: Framework) -> None:
    subjects = {str(case.subject) for case in collect("core/uniform", core)}
    assert subjects == {"core/uniform"}


def test_a_path_to_a_plugin_can_be_checked(core: Framework, plugin: Path) -> None:
    results = run_checks(str(plugin), core)
    assert {result.check for result in results if result.status == "failed"} == set()
    assert any(result.subject == "local_plugin/plain(bits=3)" for result in results)


def test_an_unknown_plugin_is_an_error(core: Framework) -> None:
    with pytest.raises(UnknownNameError):
        collect("corr", core)


def test_a_plugin_that_does_not_load_is_an_error(core: Framework, tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    with pytest.raises(PluginError, match="ZeroDivisionError"):
        collect(str(broken), core)


def test_expected_failures_are_strict(core: Framework) -> None:
    results = run_checks("core/uniform", core, expected_failures={"weights_are_shares": "not yet, #1"})
    (result,) = [result for result in results if result.check == "weights_are_shares"]
    assert result.status == "failed" and "not yet, #1" in result.message


def test_an_expected_failure_that_names_no_check_is_an_error(core: Framework) -> None:
    with pytest.raises(UsageError, match="weights_are_share'.*names no check") as caught:
        run_checks("core/uniform", core, expected_failures={"weights_are_share": "why"})
    assert "weights_are_shares" in str(caught.value.hint)


def test_an_expected_failure_needs_a_reason(core: Framework) -> None:
    with pytest.raises(UsageError, match="has no reason"):
        conformance("core/uniform", expected_failures={"weights_are_shares": " "}, framework=core)


def test_conformance_is_a_parametrized_test(core: Framework) -> None:
    (mark,) = conformance("core/uniform", framework=core).pytestmark
    assert mark.name == "parametrize"
    assert "weights_are_shares[core/uniform]" in {parameter.id for parameter in mark.args[1]}


def test_pytest_reports_passes_skips_expected_failures_and_failures(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "from qcore.plugins import Framework\n"
        "from qcore.testing import conformance\n"
        "reasons = {'weights_are_shares': 'passes, so this is strict'}\n"
        "test_it = conformance('core/uniform', expected_failures=reasons, framework=Framework(load=False))\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", "test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed" in done.stdout and "skipped" in done.stdout and "passed" in done.stdout
    assert "passes, so this is strict" in done.stdout
    assert "the router has nothing to train" in done.stdout


@pytest.mark.parametrize("name", ["torch", "pytest", "hypothesis"])
def test_importing_the_kit_imports_nothing_heavy(name: str) -> None:
    script = f"import qcore.testing, sys; sys.exit({name!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_running_checks_needs_neither_pytest_nor_hypothesis() -> None:
    script = (
        "import sys\n"
        "sys.modules['pytest'] = sys.modules['hypothesis'] = None\n"
        "from qcore.plugins import Framework\n"
        "from qcore.testing import run_checks\n"
        "results = run_checks('core/uniform', Framework(load=False))\n"
        "sys.exit(0 if results and all(result.ok for result in results) else 1)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
