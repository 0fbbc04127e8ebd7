from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from qcore.errors import QcoreError, UsageError
from qcore.runs import Run, compare

Start = Callable[..., Run]


def test_arms_of_several_runs_stand_side_by_side_with_paired_tests(tiny: Start, tmp_path: Path) -> None:
    first, second = tiny("ptq"), tiny("float", out=tmp_path / "second", settings={"epochs": 1, "hidden": [8]})
    found = compare([first.path, str(second.path)])
    assert [(Path(row["run"]).name, row["arm"]) for row in found.rows] == [
        ("run", "float"),
        ("run", "ptq"),
        ("second", "float"),
    ]
    assert [(Path(row["run"]).name, row["arm"]) for row in found.tests] == [("run", "ptq"), ("second", "float")]
    assert found.tests[1]["difference"] == pytest.approx(found.rows[2]["mean"] - found.rows[0]["mean"])
    assert found.to_dict()["metric"] == "f1_weighted"


def test_runs_of_other_data_or_folds_cannot_be_compared(tiny: Start, tmp_path: Path) -> None:
    first = tiny("float")
    other_task = tiny("float", out=tmp_path / "digits", task="core/digits")
    other_folds = tiny("float", out=tmp_path / "folds", folds=3)
    with pytest.raises(UsageError, match="data: sha256"):
        compare([first, other_task])
    with pytest.raises(UsageError, match=r"folds: \[0, 1\] and \[0, 1, 2\]"):
        compare([first, other_folds])


def test_runs_with_other_seeds_are_listed_but_not_tested(tiny: Start, tmp_path: Path) -> None:
    found = compare([tiny("float"), tiny("float", out=tmp_path / "seed", seeds=[5])])
    assert len(found.rows) == 2
    assert found.tests == []


def test_a_run_with_other_files_than_it_recorded_is_not_compared(tiny: Start) -> None:
    run = tiny("float")
    run.model_path("float", 1).write_bytes(b"another")
    with pytest.raises(QcoreError, match=r"fold 1, seed 0: its model.safetensors is not the one recorded") as caught:
        compare([run, run])
    assert "--resume" in (caught.value.hint or "")


def test_an_unfinished_run_and_no_run_are_errors(tiny: Start) -> None:
    run = tiny("float")
    (run.path / "summary.json").unlink()
    with pytest.raises(QcoreError, match="no summary"):
        compare([Run(run.path)])
    with pytest.raises(UsageError):
        compare([])
