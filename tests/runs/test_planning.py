from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from qcore.errors import ConfigError, DataError, PluginError, UnknownNameError, UsageError
from qcore.plugins import Framework
from qcore.runs import plan
from qcore.runs.planning import make_plan, resolve_method
from qcore.runs.rundir import Job


def test_a_plan_lists_jobs_by_seed_fold_and_arm_and_touches_no_disk(tmp_path: Path, framework: Framework) -> None:
    made = plan("ptq", task="breast_cancer", folds=2, seeds=[4, 2], out=tmp_path / "run", framework=framework)
    order = [(4, 0, "float"), (4, 0, "ptq"), (4, 1, "float"), (4, 1, "ptq"), (2, 0, "float")]
    assert made.jobs[:5] == [Job(*job) for job in order]
    assert made.needs(Job(4, 1, "ptq")) == [Job(4, 1, "float")]
    assert list(tmp_path.iterdir()) == []


def test_a_plan_describes_the_resolved_config_with_defaults(framework: Framework) -> None:
    import json

    data = plan("ptq", task="breast_cancer", folds=2, settings={"epochs": 3}, framework=framework).describe()
    assert data["config"]["settings"]["epochs"] == 3
    assert data["config"]["settings"]["batch_size"] == 64
    assert data["method"] == "core/ptq"
    assert data["jobs"] == 4
    assert sum(data["folds"][0][part] for part in ("train", "validation", "test")) == data["samples"] == 569
    assert json.loads(json.dumps(data)) == data


def test_the_default_directory_names_method_task_and_time(framework: Framework) -> None:
    now = datetime(2026, 1, 31, 12, 0, 5, tzinfo=UTC)
    made = make_plan({"plugin": "float", "folds": 2}, framework, now=now)
    assert made.out == Path("runs/float-digits-20260131T120005")


def test_unknown_names_list_the_close_matches(framework: Framework) -> None:
    for values, match in [
        ({"plugin": "flaot"}, "float"),
        ({"plugin": "float", "task": "diggits"}, "digits"),
        ({"plugin": "ptq", "settings": {"arms": ["ptk"]}}, "ptq"),
    ]:
        with pytest.raises(UnknownNameError, match=match):
            make_plan(values, framework)


def test_an_unknown_setting_is_a_config_error_with_a_close_match(framework: Framework) -> None:
    with pytest.raises(ConfigError, match="did you mean 'epochs'"):
        make_plan({"plugin": "float", "settings": {"epoch": 3}}, framework)


def test_a_run_needs_a_method(framework: Framework) -> None:
    with pytest.raises(UsageError, match="--plugin"):
        make_plan({}, framework)


def test_arms_that_are_asked_for_bring_what_they_need(framework: Framework) -> None:
    made = make_plan({"plugin": "ptq", "folds": 2, "settings": {"arms": ["ptq"]}}, framework)
    assert [arm.name for arm in made.arms] == ["float", "ptq"]
    made = make_plan({"plugin": "ptq", "folds": 2, "settings": {"arms": ["float"]}}, framework)
    assert [arm.name for arm in made.arms] == ["float"]


def test_bad_data_are_refused_before_any_training(tmp_path: Path, framework: Framework) -> None:
    file = tmp_path / "bad.npz"
    features = np.ones((20, 2), dtype=np.float32)
    features[3, 1] = np.nan
    np.savez(file, X=features, y=np.arange(20) % 2)
    options = {"data": str(file), "target": "y"}
    with pytest.raises(DataError, match="NaN"):
        make_plan({"plugin": "float", "task": "table", "task_options": options}, framework)
    with pytest.raises(DataError):
        make_plan({"plugin": "float", "task": "table", "task_options": {"data": str(tmp_path / "no.csv")}}, framework)
    np.savez(file, X=np.ones((20, 2)), y=np.array([0] * 17 + [1] * 3))
    with pytest.raises(DataError, match="fewer"):
        make_plan({"plugin": "float", "task": "table", "task_options": options}, framework)


def test_a_path_names_the_plugin_in_it_and_may_be_named_twice(plugin: Path, framework: Framework) -> None:
    assert resolve_method(framework, str(plugin)) == "probe/probe"
    assert resolve_method(framework, str(plugin)) == "probe/probe"
    assert resolve_method(framework, "probe") == "probe/probe"


def test_a_plugin_file_that_breaks_is_an_error_with_exit_code_3(tmp_path: Path, framework: Framework) -> None:
    file = tmp_path / "broken.py"
    file.write_text("raise RuntimeError('boom')")
    with pytest.raises(PluginError, match="boom"):
        resolve_method(framework, str(file))


def test_a_plugin_without_a_method_cannot_be_run(tmp_path: Path, framework: Framework) -> None:
    file = tmp_path / "empty.py"
    file.write_text(
        "from qcore.hookspecs import hookimpl\n@hookimpl\ndef qcore_quantizers():\n    return []\n", encoding="utf-8"
    )
    with pytest.raises(UsageError, match="offers no method"):
        resolve_method(framework, str(file))
