from __future__ import annotations

import sys

import pytest

from qcore.errors import ConfigError, UnknownNameError, UsageError
from qcore.plugins import Framework


@pytest.fixture(autouse=True)
def _pair(publish):
    publish("left")
    publish("right")


def loaded(**options):
    framework = Framework(**{"config": {}, **options})
    return {status.name for status in framework.plugins if status.status == "loaded"} & {"left", "right"}


def test_without_switches_everything_is_loaded():
    assert loaded() == {"left", "right"}


def test_no_plugins_leaves_the_core_alone_and_imports_nothing():
    framework = Framework(no_plugins=True, config={})
    assert [status.name for status in framework.plugins if status.status == "loaded"] == ["core"]
    assert not {"qcore_left_module", "qcore_right_module"} & set(sys.modules)
    assert framework.warnings() == []


def test_a_disabled_plugin_is_not_imported_and_says_who_disabled_it():
    framework = Framework(disable=["left"], config={})
    (status,) = [status for status in framework.plugins if status.name == "left"]
    assert status.status == "disabled" and "--no-plugin" in status.reason
    assert "qcore_left_module" not in sys.modules


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"QCORE_PLUGINS": "left"}, {"left"}),
        ({"QCORE_PLUGINS": ""}, set()),
        ({"QCORE_DISABLE_PLUGINS": "left, right"}, set()),
        ({"QCORE_DISABLE_PLUGINS": ""}, {"left", "right"}),
        ({"QCORE_PLUGINS": "left", "QCORE_DISABLE_PLUGINS": "left"}, {"left"}),
    ],
)
def test_the_environment_switches(environment, expected, monkeypatch):
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert loaded() == expected


def test_a_flag_beats_the_environment_and_the_environment_beats_the_file(monkeypatch):
    monkeypatch.setenv("QCORE_PLUGINS", "left,right")
    assert loaded(config={"plugins": {"disable": ["left"]}}) == {"left", "right"}
    assert loaded(disable=["left"]) == {"right"}
    assert loaded(no_plugins=True) == set()
    assert loaded(only=["left"], disable=["left"]) == set()


def test_the_config_file_of_the_working_directory_counts(tmp_path):
    (tmp_path / "here" / "qcore.toml").write_text('[plugins]\ndisable = ["left"]\n')
    assert loaded(config=None) == {"right"}
    (tmp_path / "here" / "qcore.toml").write_text('[plugins]\nonly = ["left"]\n')
    assert loaded(config=None) == {"left"}
    assert loaded(config={}) == {"left", "right"}


def test_a_dash_in_a_name_is_an_underscore(publish):
    publish("two_words")
    framework = Framework(disable=["two-words"], config={})
    assert {status.name: status.status for status in framework.plugins}["two_words"] == "disabled"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[plugins\n", "not valid TOML"),
        ('[plugins]\ndisabled = ["left"]\n', "did you mean 'disable'"),
        ('[plugins]\ndisable = "left"\n', "must be a list"),
        ("plugins = 3\n", "must be a table"),
    ],
)
def test_a_bad_config_file_is_a_usage_error(text, complaint, tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=complaint):
        Framework(config=path)


def test_a_config_file_that_is_absent_is_an_error_only_when_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        Framework(config=tmp_path / "absent.toml")


def test_a_flag_that_names_no_plugin_is_an_error_before_anything_is_imported():
    with pytest.raises(UnknownNameError, match="did you mean 'left'"):
        Framework(disable=["lefft"], config={})
    assert "qcore_left_module" not in sys.modules


def test_the_core_cannot_be_disabled(monkeypatch):
    with pytest.raises(UsageError, match="cannot be disabled"):
        Framework(disable=["core"], config={})
    monkeypatch.setenv("QCORE_DISABLE_PLUGINS", "core")
    assert Framework(config={}).require("core").status == "loaded"


def test_a_misspelt_name_in_the_environment_is_warned_of_and_an_absent_one_is_not(monkeypatch):
    monkeypatch.setenv("QCORE_DISABLE_PLUGINS", "lefft,something_else_entirely")
    (warning,) = Framework(config={}).warnings()
    assert "QCORE_DISABLE_PLUGINS" in warning and "'left'" in warning


def test_both_claimants_of_a_name_can_be_disabled(publish):
    publish("left", distribution="pretender")
    framework = Framework(disable=["left"], config={})
    assert [status.status for status in framework.plugins if status.name == "left"] == ["disabled", "disabled"]
