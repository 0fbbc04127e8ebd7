from __future__ import annotations

import subprocess
import sys

import pytest

from qcore.errors import ConfigError
from qcore.runs.config import changed_options, make_run_config

BASE = {"plugin": "core/float", "task": "core/digits"}


def test_seeds_are_a_count_or_the_seeds_themselves() -> None:
    assert make_run_config({**BASE, "seeds": 3}).seeds == (0, 1, 2)
    assert make_run_config({**BASE, "seeds": [7, 3]}).seeds == (7, 3)
    assert make_run_config(BASE).seeds == (0,)


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("seeds", 0, "seed"),
        ("seeds", [1, 1], "twice"),
        ("seeds", [], "seeds"),
        ("workers", 0, "worker"),
        ("workers", "many", "workers"),
        ("folds", 1, "folds"),
        ("validation", 1.0, "validation"),
        ("fold", 5, "did you mean 'folds'"),
    ],
)
def test_a_bad_option_is_named_with_a_reason(option: str, value: object, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        make_run_config({**BASE, option: value})


def test_only_options_that_decide_the_numbers_count_as_changed() -> None:
    old = make_run_config({**BASE, "workers": 2, "seeds": 1})
    assert changed_options(make_run_config({**BASE, "workers": 1, "latency": False}), old) == []
    assert changed_options(make_run_config({**BASE, "seeds": 2}), old) == ["seeds: [0] then, [0, 1] now"]
    assert changed_options(make_run_config({**BASE, "device": "cuda"}), old), "another device rounds differently"


def test_the_config_of_a_run_needs_no_torch() -> None:
    code = "import sys, qcore.runs, qcore.runs.config, qcore.runs.rundir\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
