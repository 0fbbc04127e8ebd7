from __future__ import annotations

from pathlib import Path

import pytest

from qcore.plugins import Framework, PluginStatus
from qcore.registry import QuantizerSpec
from qcore.testing import plugin_checks, spec_checks
from qcore.testing.cases import Case, CheckResult, checks_of, run_case
from qcore.testing.subjects import Offer, PluginSubject

PLUGIN_CHECKS = {check.__name__.removeprefix("check_"): check for check in checks_of(plugin_checks)}
SPEC_CHECKS = {check.__name__.removeprefix("check_"): check for check in checks_of(spec_checks)}

HEAD = "from qcore import QuantizerSpec, hookimpl\n"
HOOK = """
@hookimpl
def qcore_quantizers():
    return [QuantizerSpec(name="plain", target={target!r}, config={config!r}, summary={summary!r})]
"""
TARGET = "qcore.quantizers.integer:IntQuantizer"
CONFIG = "qcore.quantizers.config:IntConfig"


def check_plugin(
    name: str,
    tmp_path: Path,
    *,
    head: str = HEAD,
    target: str = TARGET,
    config: str | None = CONFIG,
    summary: str = "a summary",
) -> CheckResult:
    """Run one check on a plugin of one quantizer."""
    path = tmp_path / "made.py"
    path.write_text(head + HOOK.format(target=target, config=config, summary=summary))
    framework = Framework(load=False)
    status = framework.add(path)
    specs = tuple(spec for spec in framework.registry if spec.plugin == status.name)
    if name in PLUGIN_CHECKS:
        return run_case(Case(PLUGIN_CHECKS[name], PluginSubject(status, specs)))
    return run_case(Case(SPEC_CHECKS[name], Offer(specs[0], framework.registry)))


@pytest.mark.parametrize("name", [*PLUGIN_CHECKS, *SPEC_CHECKS])
def test_a_good_plugin_fails_no_check(name: str, tmp_path: Path) -> None:
    result = check_plugin(name, tmp_path)
    assert result.ok, result.message


def test_a_plugin_that_imports_torch_is_caught(tmp_path: Path) -> None:
    result = check_plugin("import_needs_no_torch", tmp_path, head=HEAD + "import torch\n")
    assert result.status == "failed" and "torch" in result.message


def test_a_config_module_that_imports_torch_is_caught(tmp_path: Path) -> None:
    result = check_plugin("configs_need_no_torch", tmp_path, config="qcore.quantizers.integer:IntConfig")
    assert result.status == "failed" and "qcore.quantizers.integer" in result.message


@pytest.mark.parametrize("summary", ["a sentence.", "x" * 101])
def test_a_summary_that_spoils_a_listing_is_caught(summary: str, tmp_path: Path) -> None:
    assert check_plugin("summaries_fit_a_listing", tmp_path, summary=summary).status == "failed"


@pytest.mark.parametrize("target", ["qcore.routers.topk:TopKRouter", "qcore.quantizers:Quantizer", "json:dumps"])
def test_a_target_of_another_kind_is_caught(target: str, tmp_path: Path) -> None:
    assert check_plugin("target_is_of_its_kind", tmp_path, target=target).status == "failed"


def test_a_target_that_is_not_there_is_caught(tmp_path: Path) -> None:
    result = check_plugin("target_is_of_its_kind", tmp_path, target="qcore.quantizers.integer:Nothing")
    assert result.status == "failed" and "cannot be imported" in result.message


def test_a_config_that_is_not_the_classes_own_is_caught(tmp_path: Path) -> None:
    result = check_plugin("config_is_the_classes_own", tmp_path, config="qcore.quantizers.config:QuantizerConfig")
    assert result.status == "failed" and "IntConfig" in result.message


def test_a_config_that_is_loose_or_silent_is_caught(tmp_path: Path) -> None:
    head = (
        HEAD
        + "import sys\nfrom pydantic import BaseModel\nclass Loose(BaseModel):\n    width: int = 1\n"
        + "sys.modules['made_for_this_test'] = sys.modules[__name__]\n"
    )
    for name, message in (("config_is_frozen_and_strict", "extra='forbid'"), ("every_option_is_documented", "width")):
        result = check_plugin(name, tmp_path, head=head, config="made_for_this_test:Loose")
        assert result.status == "failed" and message in result.message


def test_an_offer_without_options_skips_the_checks_on_them(tmp_path: Path) -> None:
    assert check_plugin("every_option_is_documented", tmp_path, config=None).status == "skipped"


@pytest.mark.parametrize(
    ("requires", "message"),
    [
        ("Requires-Dist: qcore-ml>=0.1,<0.2\n", None),
        ('Requires-Dist: qcore_ml>=0.1\nRequires-Dist: numpy; extra == "x"\n', None),
        ("Requires-Dist: numpy\n", "not qcore-ml"),
        ("", "nothing"),
        ("Requires-Dist: qcore-ml\nRequires-Dist: qcore>=1\n", "another project"),
    ],
)
def test_requirements_are_read(
    requires: str, message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "qcore_made-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: qcore-made\nVersion: 1.0\n{requires}")
    monkeypatch.syspath_prepend(tmp_path)
    subject = PluginSubject(PluginStatus("made", "qcore-made", "1.0", "loaded"), ())
    result = run_case(Case(PLUGIN_CHECKS["distribution_requires_the_core"], subject))
    assert result.ok if message is None else message in result.message


def test_a_distribution_that_says_nothing_of_itself_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "qcore_silent-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: qcore-silent\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    subject = PluginSubject(PluginStatus("silent", "qcore-silent", "1.0", "loaded"), ())
    result = run_case(Case(PLUGIN_CHECKS["distribution_says_what_it_is"], subject))
    assert result.status == "failed" and "summary" in result.message


def test_a_package_without_py_typed_is_caught(tmp_path: Path) -> None:
    status = PluginStatus("made", "qcore-made", "1.0", "loaded", file=str(tmp_path / "__init__.py"))
    case = Case(PLUGIN_CHECKS["package_is_typed"], PluginSubject(status, ()))
    assert run_case(case).status == "failed"
    (tmp_path / "py.typed").touch()
    assert run_case(case).status == "passed"


def test_a_plugin_that_lives_in_this_process_alone_is_skipped() -> None:
    spec = QuantizerSpec(name="q", target=TARGET, summary="s", plugin="made")
    subject = PluginSubject(PluginStatus("made", None, None, "loaded", local=True), (spec,))
    assert run_case(Case(PLUGIN_CHECKS["import_needs_no_torch"], subject)).status == "skipped"
