"""Defaults < file < environment < flags."""

from __future__ import annotations

import pytest

from qcore.cli.settings import collect, parse_assignments, parse_seeds, parse_workers
from qcore.errors import ConfigError, DataError, UsageError


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        path = tmp_path / "run.toml"
        path.write_text(text)
        return path

    return write


def test_nothing_given_says_nothing():
    assert collect(None, {"folds": None}, [], {}) == {"settings": {}, "task_options": {}}


def test_a_file_gives_options_of_run_method_and_task(write):
    path = write('plugin = "ptq"\nfolds = 3\n[method]\nepochs = 7\n[task]\nname = "core/table"\ntarget = "y"\n')
    assert collect(path, {}, [], {}) == {
        "plugin": "ptq",
        "folds": 3,
        "task": "core/table",
        "settings": {"epochs": 7},
        "task_options": {"target": "y"},
    }


def test_the_environment_goes_above_the_file_and_flags_above_both(write):
    path = write('workers = 1\nbackend = "a"\nfolds = 3\n[method]\nlr = 0.1\nepochs = 2\n')
    environment = {"QCORE_WORKERS": "2", "QCORE_BACKEND": "b"}
    assert collect(path, {}, [], environment)["workers"] == 2
    values = collect(path, {"workers": 4, "folds": None}, ["epochs=9"], environment)
    assert (values["workers"], values["backend"], values["folds"]) == (4, "b", 3)
    assert values["settings"] == {"lr": 0.1, "epochs": 9}


def test_an_unknown_key_of_a_file_gets_its_close_match(write):
    with pytest.raises(ConfigError, match="unknown option 'fold'") as caught:
        collect(write("fold = 3\n"), {}, [], {})
    assert "'folds'" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("plugin = 3", "plugin must be text in quotes, got 3"),
        ("task = 3", "task must be text in quotes, or a table"),
        ("[[task]]", "task must be text in quotes, or a table"),
        ("[task]\nname = 3", r"name in \[task\] must be text in quotes, got 3"),
        ("out = 3", "out must be text in quotes, got 3"),
        ("backend = 3", "backend must be text in quotes, got 3"),
        ("method = 3", r"method must be a table \[method\], got 3"),
        ("[[method]]", r"method must be a table \[method\]"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_with_file_key_and_type(write, text, message):
    with pytest.raises(ConfigError, match=r"run\.toml: " + message):
        collect(write(text), {}, [], {})


@pytest.mark.parametrize("text", ["a = ", "[task\n"])
def test_a_file_that_is_not_toml_is_refused(write, text):
    with pytest.raises(ConfigError, match="not valid TOML"):
        collect(write(text), {}, [], {})


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        collect(tmp_path / "none.toml", {}, [], {})


def test_values_are_json_where_they_can_be_and_text_elsewhere():
    words = ["epochs=20", "lr=1e-3", "hidden=[64, 32]", "quantizer=bitnet/ternary", "patience=null", "on=true", "x=a=b"]
    assert parse_assignments(words) == {
        "epochs": 20,
        "lr": 1e-3,
        "hidden": [64, 32],
        "quantizer": "bitnet/ternary",
        "patience": None,
        "on": True,
        "x": "a=b",
    }


def test_dotted_keys_nest_and_task_keys_go_to_the_task():
    values = collect(None, {}, ["router.alpha=2", "router.beta=3", "task.target=label"], {})
    assert values["settings"] == {"router": {"alpha": 2, "beta": 3}}
    assert values["task_options"] == {"target": "label"}


@pytest.mark.parametrize("word", ["epochs", "=3", ".a=3", "a..b=1", "task=digits"])
def test_malformed_assignments_are_refused(word):
    with pytest.raises(UsageError):
        collect(None, {}, [word], {})


def test_data_choose_the_task_by_what_they_are(tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("a\n")
    assert collect(None, {"task_options": {"data": str(file)}}, [], {})["task"] == "core/table"
    assert collect(None, {"task_options": {"data": str(tmp_path)}}, [], {})["task"] == "core/images"
    named = collect(None, {"task": "mine/table", "task_options": {"data": str(file)}}, [], {})
    assert named["task"] == "mine/table"


def test_missing_data_are_a_data_error(tmp_path):
    with pytest.raises(DataError, match="nothing at"):
        collect(None, {"task_options": {"data": str(tmp_path / "none.csv")}}, [], {})


def test_seeds_are_a_count_or_a_list():
    assert parse_seeds(None) is None
    assert parse_seeds("5") == 5
    assert parse_seeds("0,3,7") == [0, 3, 7]
    assert parse_seeds("4,") == [4]
    for text in ("few", "1,two", ",", ""):
        with pytest.raises(UsageError):
            parse_seeds(text)


def test_workers_are_a_number_or_auto():
    assert [parse_workers(text) for text in (None, "auto", "3")] == [None, "auto", 3]
    for text in ("all", "0", "-1"):
        with pytest.raises(UsageError, match="QCORE_WORKERS"):
            parse_workers(text, "QCORE_WORKERS")
