from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest

import qcore
from qcore.errors import PluginError, UnknownNameError
from qcore.plugins import Framework, default, reset_default, set_default

LOCAL = """
from dataclasses import dataclass
from qcore import QuantizerSpec, hookimpl

@dataclass
class Mine:
    bits: int = 2

@hookimpl
def qcore_quantizers():
    return [QuantizerSpec(name="mine", target=f"{__name__}:Mine", summary="for tests")]
"""

EVENTS = """
from qcore import hookimpl

@hookimpl
def qcore_run_finished(summary):
    return summary["plugin"] + "NAME"

@hookimpl
def qcore_run_started(run):
    raise EXCEPTION
"""


@pytest.fixture
def local(tmp_path):
    path = tmp_path / "my_quant.py"
    path.write_text(LOCAL)
    return path


@pytest.fixture
def alone():
    return Framework(no_plugins=True, config={})


def test_the_core_comes_first_and_offers_what_the_design_lists(alone):
    assert alone.plugins[0].name == "core"
    ids = {(spec.kind, spec.id) for spec in alone.registry}
    assert {
        ("quantizer", "core/int"),
        ("router", "core/topk"),
        ("router", "core/uniform"),
        ("backend", "core/reference"),
        ("method", "core/float"),
        ("method", "core/ptq"),
        ("task", "core/digits"),
        ("task", "core/breast_cancer"),
        ("task", "core/diabetes"),
        ("task", "core/table"),
        ("task", "core/images"),
        ("model", "core/mlp"),
        ("model", "core/cnn"),
        ("exporter", "core/safetensors"),
    } == ids


def test_every_target_and_config_of_the_core_can_be_imported(alone):
    for spec in alone.registry:
        assert callable(spec.load()), spec.id
        spec.load_config()


def test_load_false_finds_nothing_but_the_core(publish):
    publish("there")
    assert [status.name for status in Framework(load=False, config={}).plugins] == ["core"]


def test_a_required_plugin_is_returned_and_a_dash_will_do(publish, load):
    publish("two_words")
    assert load("two_words").require("two-words").name == "two_words"


def test_requiring_a_failed_plugin_says_stage_and_reason_and_keeps_the_traceback(publish, load):
    publish("sick", "raise ValueError('feverish')")
    with pytest.raises(PluginError, match="qcore-sick 1.0: failed at stage 'import': ValueError: feverish") as caught:
        load("sick").require("sick")
    assert caught.value.exit_code == 3
    assert "Traceback" in caught.value.__notes__[0]


def test_requiring_a_disabled_or_incompatible_plugin_says_so(publish, monkeypatch):
    publish("off")
    publish("ancient", group="qcore.plugins.v0")
    monkeypatch.setenv("QCORE_DISABLE_PLUGINS", "off")
    framework = Framework(config={})
    with pytest.raises(PluginError, match="disabled by QCORE_DISABLE_PLUGINS"):
        framework.require("off")
    with pytest.raises(PluginError, match="plugin API v0"):
        framework.require("ancient")


def test_requiring_a_plugin_that_is_not_there_lists_the_close_matches(publish, load):
    publish("sturdy")
    with pytest.raises(UnknownNameError, match="did you mean 'sturdy'") as caught:
        load("sturdy").require("sturdi")
    assert caught.value.exit_code == 2


def test_an_install_hint_is_given_for_a_known_plugin_only(alone):
    with pytest.raises(UnknownNameError) as unknown:
        alone.require("wholly_other")
    assert "pip install" not in str(unknown.value)
    alone.registry.known["wholly_other"] = "qcore-wholly-other"
    with pytest.raises(UnknownNameError, match="pip install qcore-wholly-other"):
        alone.require("wholly_other")


def test_an_id_of_a_plugin_that_failed_names_the_plugin_and_its_reason(publish, load):
    publish("sick", "raise ValueError('feverish')")
    with pytest.raises(PluginError, match="feverish") as caught:
        load("sick").registry.get("quantizer", "sick/plain")
    assert caught.value.exit_code == 3


def test_a_local_file_is_loaded_without_touching_sys_path(local, alone):
    before = list(sys.path)
    status = alone.add(local)
    assert (status.name, status.status, status.local, status.file) == ("my_quant", "loaded", True, str(local))
    assert sys.path == before
    assert alone.registry.make("quantizer", "my_quant/mine").bits == 2


def test_a_local_file_may_be_named_by_a_string_and_given_another_name(local, alone, monkeypatch):
    monkeypatch.chdir(local.parent)
    assert alone.use("./my_quant.py").name == "my_quant"
    assert Framework(no_plugins=True, config={}).add("my_quant.py", name="other").specs == ("quantizer:other/mine",)


def test_a_local_package_may_use_relative_imports(tmp_path, alone):
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text(LOCAL.replace("{__name__}", "{__name__}.part") + "\nfrom . import part\n")
    (package / "part.py").write_text("class Mine:\n    bits = 5\n")
    alone.add(package)
    assert alone.registry.make("quantizer", "my_package/mine").bits == 5


def test_an_edited_file_is_a_new_module_and_an_unchanged_one_the_same(local):
    frameworks = [Framework(no_plugins=True, config={}) for _ in range(3)]
    frameworks[0].add(local)
    frameworks[1].add(local)
    local.write_text(LOCAL.replace("= 2", "= 3"))
    frameworks[2].add(local)
    first, second, third = (framework.registry.get("quantizer", "mine").load() for framework in frameworks)
    assert first is second and third().bits == 3


def test_a_local_file_that_fails_raises_and_leaves_no_module_behind(tmp_path, alone):
    path = tmp_path / "broken.py"
    path.write_text("1 / 0")
    before = set(sys.modules)
    with pytest.raises(PluginError, match="ZeroDivisionError") as caught:
        alone.add(path)
    assert caught.value.hint is None, "'qcore plugins' does not list it"
    assert not {name for name in set(sys.modules) - before if "broken" in name}
    assert [status.status for status in alone.plugins if status.name == "broken"] == ["failed"]


def test_a_file_that_failed_can_be_mended_and_added_again(tmp_path, alone):
    path = tmp_path / "mended.py"
    path.write_text("1 / 0")
    with pytest.raises(PluginError):
        alone.add(path)
    path.write_text(LOCAL)
    assert alone.add(path).status == "loaded"
    assert alone.require("mended").status == "loaded"


@pytest.mark.parametrize(("file", "complaint"), [("absent.py", "no plugin file"), ("notes.txt", "not a Python file")])
def test_what_is_no_python_file_is_refused(file, complaint, tmp_path, alone):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(PluginError, match=complaint):
        alone.add(tmp_path / file)


def test_a_name_that_is_taken_or_no_identifier_is_refused(local, tmp_path, alone):
    alone.add(local)
    with pytest.raises(PluginError, match="taken by"):
        alone.add(local)
    with pytest.raises(PluginError, match="taken by qcore-ml"):
        alone.add(local, name="core")
    with pytest.raises(PluginError, match="lower-case identifier"):
        alone.add(local, name="My Plugin")


def test_a_module_or_its_name_can_be_added(publish, alone):
    publish("named")
    assert alone.add("qcore_named_module", name="by_name").specs == ("quantizer:by_name/plain",)
    other = Framework(no_plugins=True, config={})
    assert other.add(sys.modules["qcore_named_module"]).name == "qcore_named_module"


def test_a_recipe_loads_the_same_plugins_from_json(publish, local, monkeypatch):
    publish("kept")
    publish("dropped")
    framework = Framework(disable=["dropped"], config={})
    framework.add(local, name="own")
    monkeypatch.chdir(local.parent / "site")
    twin = Framework.from_recipe(json.loads(json.dumps(framework.recipe())))
    assert [(s.name, s.status) for s in twin.plugins] == [(s.name, s.status) for s in framework.plugins]
    assert [spec.id for spec in twin.registry.list()] == [spec.id for spec in framework.registry.list()]


def test_a_module_made_on_the_spot_has_no_recipe(alone):
    module = ModuleType("on_the_spot")
    exec("from qcore import hookimpl\n@hookimpl\ndef qcore_tasks(): return []", module.__dict__)
    alone.add(module)
    with pytest.raises(PluginError, match="this process alone"):
        alone.recipe()


def test_a_run_event_is_called_for_each_plugin_in_order_of_names_and_failures_stay_apart(publish, load):
    publish("second", EVENTS.replace("NAME", "-2").replace("EXCEPTION", "SystemExit(1)"))
    publish("first", EVENTS.replace("NAME", "-1").replace("EXCEPTION", "ValueError('no')"))
    framework = load("first", "second")
    assert framework.call("qcore_run_finished", run=None, summary={"plugin": "x"}) == [
        ("first", "x-1"),
        ("second", "x-2"),
    ]
    outcomes = framework.call("qcore_run_started", run=None)
    assert [name for name, _ in outcomes] == ["first", "second"]
    assert all(isinstance(error, PluginError) for _, error in outcomes)
    assert "plugin 'first' failed in qcore_run_started: ValueError: no" in str(outcomes[0][1])
    assert framework.call("qcore_fold_finished", run=None, result={}) == []


def test_an_added_plugin_has_its_place_in_the_order_of_names_too(publish, load, tmp_path):
    publish("second", EVENTS.replace("NAME", "").replace("EXCEPTION", "ValueError"))
    (tmp_path / "first.py").write_text(EVENTS.replace("NAME", "").replace("EXCEPTION", "ValueError"))
    framework = load("second")
    framework.add(tmp_path / "first.py")
    outcomes = framework.call("qcore_run_finished", run=None, summary={"plugin": ""})
    assert [name for name, _ in outcomes] == ["first", "second"]


def test_only_run_events_can_be_called(alone):
    with pytest.raises(ValueError, match="not a run event"):
        alone.call("qcore_quantizers")


def test_there_is_one_warning_a_failed_plugin_and_none_for_a_disabled_one(publish):
    publish("sick", "raise ValueError('a\\nb')")
    publish("ancient", group="qcore.plugins.v0")
    publish("off")
    framework = Framework(only=["sick", "ancient"], config={})
    warnings = framework.warnings()
    assert len(warnings) == 2 and not any("\n" in line for line in warnings)


def test_provenance_tells_edited_code_from_the_original(publish, load):
    site = publish("tracked")
    before = load("tracked").provenance()["tracked"]
    assert (before["distribution"], before["version"], before["editable"]) == ("qcore-tracked", "1.0", False)
    with (site / "qcore_tracked_module.py").open("a") as file:
        file.write("\n# edited\n")
    (site / "qcore_tracked-1.0.dist-info" / "direct_url.json").write_text('{"dir_info": {"editable": true}}')
    after = load("tracked").provenance()["tracked"]
    assert after["editable"] is True
    assert after["files_sha256"] != before["files_sha256"]


def test_provenance_of_a_package_covers_all_its_files(tmp_path, alone):
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text(LOCAL)
    (package / "data.bin").write_bytes(b"1")
    alone.add(package)
    first = alone.provenance()["my_package"]["files_sha256"]
    (package / "data.bin").write_bytes(b"2")
    assert alone.provenance()["my_package"]["files_sha256"] != first


def test_provenance_names_the_core_too(alone):
    assert set(alone.provenance()) == {"core"}
    assert alone.provenance()["core"]["version"] == qcore.__version__


def test_the_default_is_made_once_and_can_be_set_and_forgotten(alone):
    reset_default()
    try:
        first = default()
        assert default() is first
        set_default(alone)
        assert default() is alone
    finally:
        reset_default()
    assert default() is not alone
    reset_default()


def test_get_makes_what_the_default_offers(local, alone):
    alone.add(local)
    set_default(alone)
    try:
        assert qcore.get("quantizer", "mine").bits == 2
    finally:
        reset_default()
