from __future__ import annotations

import json
import sys

from qcore.plugins import Framework
from qcore.plugins.discovery import find_candidates


def rows(framework, name):
    return [status for status in framework.plugins if status.name == name]


def test_an_installed_plugin_is_found_with_its_distribution_and_version(publish, load):
    publish("found", version="2.5")
    (status,) = rows(load("found"), "found")
    assert (status.distribution, status.version, status.status) == ("qcore-found", "2.5", "loaded")
    assert status.summary == "a plugin of the tests"


def test_finding_imports_nothing(publish):
    publish("sleeping")
    assert "sleeping" in {candidate.name for candidate in find_candidates()}
    assert "qcore_sleeping_module" not in sys.modules


def test_candidates_come_in_the_order_of_their_names(publish):
    for name in ("zebra", "ape", "mole"):
        publish(name)
    names = [candidate.name for candidate in find_candidates()]
    assert names == sorted(names)


def test_a_distribution_that_is_on_the_path_twice_counts_once_and_the_first_is_it(publish, load):
    publish("twice", version="1.0", folder="later")
    publish("twice", version="2.0", folder="earlier")  # prepended, so Python imports this one
    (status,) = rows(load("twice"), "twice")
    assert (status.status, status.version) == ("loaded", "2.0")


def test_an_older_api_is_reported_without_import_and_says_to_upgrade_the_plugin(publish, load):
    publish("old", "raise RuntimeError('imported')", group="qcore.plugins.v0")
    framework = load("old")
    (status,) = rows(framework, "old")
    assert (status.status, status.stage) == ("incompatible", "api")
    assert "API v0" in status.reason and "upgrade qcore-old" in status.reason
    assert "qcore_old_module" not in sys.modules
    assert any("old" in line for line in framework.warnings())


def test_a_newer_api_says_to_upgrade_qcore(publish, load):
    publish("new", group="qcore.plugins.v12")
    (status,) = rows(load("new"), "new")
    assert status.status == "incompatible" and "upgrade qcore-ml" in status.reason


def test_a_distribution_that_serves_both_apis_is_loaded_through_ours(publish, load):
    publish(
        "both",
        entry_points="[qcore.plugins.v1]\nboth = qcore_both_module\n[qcore.plugins.v2]\nboth = nowhere\n",
    )
    (status,) = rows(load("both"), "both")
    assert status.status == "loaded"


def test_two_distributions_that_claim_one_name_both_fail_and_both_are_named_with_versions(publish, load):
    publish("prize", distribution="alpha", version="1.1")
    publish("prize", distribution="beta", version="2.2")
    publish("bystander")
    framework = load("prize", "bystander")
    claims = rows(framework, "prize")
    assert [status.status for status in claims] == ["failed", "failed"]
    assert all("alpha 1.1" in status.reason and "beta 2.2" in status.reason for status in claims)
    assert rows(framework, "bystander")[0].status == "loaded"
    assert not {"alpha_module", "beta_module"} & set(sys.modules)


def test_the_distribution_that_bears_the_name_keeps_it_against_an_earlier_rival(publish, load):
    publish("prize", "raise RuntimeError('hijacked')", distribution="aaa-prize")
    publish("prize", distribution="qcore-prize")
    framework = load("prize")
    states = {status.distribution: status.status for status in rows(framework, "prize")}
    assert states == {"aaa-prize": "failed", "qcore-prize": "loaded"}
    assert framework.require("prize").distribution == "qcore-prize"
    assert framework.registry.get("quantizer", "prize/plain").distribution == "qcore-prize"
    assert "prize" not in framework.registry.absent


def test_nobody_may_be_called_core(publish):
    publish("core", distribution="impostor")
    framework = Framework(only=[], config={})
    core, *others = rows(framework, "core")
    assert core.distribution == "qcore-ml" and core.status == "loaded"
    assert [(status.status, status.stage) for status in others] == [("failed", "name")]
    assert "impostor_module" not in sys.modules


def test_a_plugin_name_that_is_no_identifier_is_refused(publish, load):
    publish("Bad.Name", distribution="bad-name")
    framework = Framework(config={})
    (status,) = rows(framework, "Bad.Name")
    assert (status.status, status.stage) == ("failed", "name")


def test_entry_points_that_cannot_be_parsed_are_one_failed_row(publish, load):
    publish("garbled", entry_points="[qcore.plugins.v1]\nthis line has no equals sign\n")
    framework = Framework(config={})
    (status,) = [status for status in framework.plugins if status.distribution == "qcore-garbled"]
    assert status.status == "failed" and "entry_points.txt" in status.reason


def test_metadata_of_strangers_that_cannot_be_decoded_is_passed_over(publish, load):
    site = publish("fine")
    info = site / "stranger-1.0.dist-info"
    info.mkdir()
    (info / "entry_points.txt").write_bytes(b"\xff\xfe[qcore.plugins.v1]")
    assert load("fine").require("fine").status == "loaded"


def test_a_listing_is_plain_json(publish, load):
    publish("listed")
    (status,) = rows(load("listed"), "listed")
    row = json.loads(json.dumps(status.listing()))
    assert {"name", "distribution", "version", "status", "reason", "kind", "plugin", "summary"} <= set(row)
    assert row["specs"] == ["quantizer:listed/plain"]
