"""``list``, ``info``, ``plugins``, ``check`` and ``doctor``."""

from __future__ import annotations

import importlib.metadata
import json
from types import SimpleNamespace

import pytest

from qcore.cli import doctor as doctor_module


def test_a_listing_as_data_has_the_promised_keys(qcore):
    rows = json.loads(qcore("list", "quantizers", "--json").stdout)
    assert {"core/int"} <= {row["name"] for row in rows}
    for row in rows:
        assert row["kind"] == "quantizer"
        assert row["plugin"] == row["name"].partition("/")[0]
        assert row["summary"]


def test_a_listing_fits_80_columns(qcore):
    text = qcore("list", env={"COLUMNS": "80"}).stdout
    assert max(map(len, text.splitlines())) <= 80
    assert "1-8 bits" in text


def test_an_unknown_kind_gets_its_close_match(qcore):
    result = qcore("list", "quantisers")
    assert result.exit_code == 2
    assert "'quantizer'" in result.stderr


def test_plugins_as_data_have_the_promised_keys(qcore):
    rows = {row["name"]: row for row in json.loads(qcore("plugins", "--json").stdout)}
    assert rows["core"].items() >= {"distribution": "qcore-ml", "status": "loaded", "reason": None}.items()
    assert rows["core"]["version"]
    assert "loaded" in qcore("plugins", "--timing").stdout


def test_info_shows_the_options_of_what_is_named(qcore):
    text = qcore("info", "core/int").stdout
    for part in ("granularity", "'tensor' | 'row'", "arXiv", "qcore.quantizers.integer:IntQuantizer"):
        assert part in text
    assert qcore("info", "int").stdout == text
    (data,) = json.loads(qcore("info", "core/int", "--json").stdout)
    assert data["options"]["properties"]["bits"]["default"] == 8


def test_info_shows_a_plugin(qcore):
    text = qcore("info", "core").stdout
    assert "quantizer:core/int" in text


def test_check_reports_and_fails_with_1(qcore, monkeypatch):
    from qcore import testing

    def results(name, framework):
        assert name == "core/int"
        outcomes = ("passed", "failed") if failing else ("passed", "skipped")
        return [
            testing.CheckResult(f"a[{status}]", "a", "core/int", status, "it matters", "too big") for status in outcomes
        ]

    monkeypatch.setattr(testing, "run_checks", results)
    failing = False
    result = qcore("check", "core/int")
    assert result.exit_code == 0
    assert "1 passed, 1 skipped" in result.stdout
    failing = True
    result = qcore("check", "core/int", "--json")
    assert result.exit_code == 1
    assert [row["status"] for row in json.loads(result.stdout)] == ["passed", "failed"]


def named(found, name):
    return next(finding for finding in found if finding["name"] == name)


def test_doctor_finds_this_installation_well(qcore):
    result = qcore("doctor", "--json", env={"QCORE_DATA": None, "QCORE_PLUGINS": "core"})
    found = json.loads(result.stdout)
    assert result.exit_code == 0, result.stdout
    for name in ("qcore", "python", "torch", "plugin core", "backend core/reference", "cpu"):
        assert named(found, name)["status"] == "ok"
    assert named(found, "QCORE_PLUGINS")["detail"] == "core"


def test_doctor_finds_the_unrelated_package_and_says_how_to_mend_it(qcore, monkeypatch):
    owners = {"qcore": ["qcore", "qcore-ml"]}
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: owners)
    result = qcore("doctor", env={"QCORE_DATA": None})
    assert result.exit_code == 1
    assert "pip uninstall qcore && pip install --force-reinstall qcore-ml" in result.stdout


def test_doctor_finds_a_data_folder_that_is_not_there(qcore, tmp_path):
    result = qcore("doctor", "--json", env={"QCORE_DATA": str(tmp_path / "none")})
    assert result.exit_code == 1
    assert named(json.loads(result.stdout), "QCORE_DATA")["status"] == "problem"


@pytest.mark.parametrize(
    ("name", "value", "reason", "hint"),
    [
        ("QCORE_BACKEND", "referense", "no loaded plugin offers the backend 'referense'", "reference"),
        ("QCORE_WORKERS", "abc", "not a number of processes", "auto"),
        ("QCORE_WORKERS", "0", "not a number of processes", "auto"),
        ("QCORE_PLUGINS", "core,nope", "there is no plugin 'nope'", "core"),
    ],
)
def test_doctor_finds_a_variable_that_names_what_is_not_there(qcore, name, value, reason, hint):
    result = qcore("doctor", "--json", env={"QCORE_DATA": None, name: value})
    assert result.exit_code == 1
    found = named(json.loads(result.stdout), name)
    assert found["status"] == "problem"
    assert reason in found["detail"] and hint in found["hint"]


@pytest.mark.parametrize(("name", "value"), [("QCORE_BACKEND", "auto"), ("QCORE_BACKEND", ""), ("QCORE_WORKERS", "2")])
def test_doctor_passes_a_variable_that_commands_can_use(qcore, name, value):
    found = json.loads(qcore("doctor", "--json", env={"QCORE_DATA": None, name: value}).stdout)
    assert named(found, name)["status"] == "ok"


@pytest.mark.parametrize("broken", [RuntimeError("driver"), None], ids=["raises", "absent"])
def test_doctor_survives_every_backend(broken):
    def probe():
        if broken:
            raise broken
        return SimpleNamespace(available=False, device="cuda", reason="no driver", details={"hint": "install one"})

    registry = SimpleNamespace(
        list=lambda kind: [SimpleNamespace(id="x/fast")],
        make=lambda kind, name: SimpleNamespace(probe=probe),
    )
    (found,) = doctor_module._backends(SimpleNamespace(registry=registry))
    assert found.status == ("problem" if broken else "absent")
    assert ("driver" in found.detail) and (broken or found.hint == "install one")
