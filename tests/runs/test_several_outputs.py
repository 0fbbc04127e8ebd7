"""A task with several values a sample, through a whole run: training, packing, evidence, files, predictions, report."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from qcore.cli.evaluate import score_model
from qcore.cli.predict import _show, _write, prediction_rows
from qcore.cli.session import Session
from qcore.errors import UsageError
from qcore.export import inspect, load
from qcore.plugins import Framework
from qcore.runs import Job, Run, run
from qcore.training import outputs

PLUGIN = """
from qcore.hookspecs import hookimpl
from qcore.registry import TaskSpec


@hookimpl
def qcore_tasks():
    return [TaskSpec(name="two", target=__name__ + ":Two", summary="for a test", problem="regression")]


def __getattr__(name):
    if name != "Two":
        raise AttributeError(name)
    import torch

    from qcore.tasks import Task, TaskData

    class Two(Task):
        def load(self):
            x = torch.randn(240, 3, generator=torch.Generator().manual_seed(0))
            y = torch.stack([1000 + 300 * x[:, 0], -0.01 * x[:, 1]], dim=1)
            return TaskData(
                inputs=x, targets=y, feature_names=("a", "b", "c"), target_names=("large", "small"), source="drawn"
            )

    return Two
"""


@pytest.fixture(scope="module")
def framework(tmp_path_factory: pytest.TempPathFactory) -> Framework:
    path = tmp_path_factory.mktemp("plugin") / "several.py"
    path.write_text(PLUGIN, encoding="utf-8")
    made = Framework(no_plugins=True, config={})
    made.use(path)
    return made


@pytest.fixture(scope="module")
def done(framework: Framework, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(
        "core/ptq",
        task="several/two",
        folds=2,
        workers=1,
        calls=2,
        latency=False,
        settings={"epochs": 30, "hidden": [16], "dropout": 0.0, "lr": 0.01, "batch_size": 32},
        framework=framework,
        out=tmp_path_factory.mktemp("runs") / "two",
    )


def test_both_outputs_are_learned_whatever_their_units(done: Run) -> None:
    samples = done.samples("float", 0, 0)
    assert samples["target"].shape == samples["prediction"].shape == (120, 2)
    left = np.square(samples["prediction"] - samples["target"]).mean(axis=0)
    assert (left < 0.1 * samples["target"].var(axis=0)).all()
    result = done.result(Job(0, 0, "float"))
    assert result is not None and result["scores"]["mse"] == pytest.approx(left.mean(), rel=1e-4)
    assert result["scores"]["r2"] > 0.9
    assert done.evidence().samples("ptq")["prediction"].shape == (240, 2)


def test_the_packed_file_gives_both_in_their_units(done: Run, framework: Framework) -> None:
    result = done.result(Job(0, 0, "ptq"))
    assert result is not None and result["packed"]["equal"]
    model = load(done.model_path("ptq"), registry=framework.registry)
    assert tuple(model.rescale.mean.shape) == (2,)  # type: ignore[union-attr,operator]
    y = outputs(model, torch.zeros(1, 3))
    assert abs(float(y[0, 0]) - 1000) < 200 and abs(float(y[0, 1])) < 0.01


def test_the_names_of_the_outputs_are_on_record(done: Run) -> None:
    assert done.record["data"]["targets"] == ["large", "small"]
    assert inspect(done.model_path("ptq")).extra["targets"] == ["large", "small"]


def test_predictions_are_named(done: Run, framework: Framework, tmp_path: Path) -> None:
    path = done.model_path("float")
    rows = prediction_rows(load(path, registry=framework.registry), inspect(path), torch.zeros(2, 3))
    assert [list(row) for row in rows] == [["row", "values"]] * 2 and list(rows[0]["values"]) == ["large", "small"]
    _write(tmp_path / "out.csv", rows)
    with (tmp_path / "out.csv").open() as file:
        (header, *_) = csv.reader(file)
    assert header == ["row", "large", "small"]


def test_a_table_shows_six_values_at_most(capsys: pytest.CaptureFixture[str]) -> None:
    _show([{"row": 0, "values": {f"y{i}": float(i) for i in range(9)}}])
    shown = capsys.readouterr().out
    assert "y5" in shown and "y6" not in shown and "and 3 more values a row" in shown
    _show([{"row": 0, "values": {"large": 1.0, "small": 2.0}}])
    shown = capsys.readouterr().out
    assert "large" in shown and "2.0000" in shown and "more" not in shown


def test_the_report_is_written(done: Run) -> None:
    assert "several/two" in (done.path / "report.html").read_text(encoding="utf-8")


def test_a_file_with_one_target_column_is_no_measure_of_it(done: Run, framework: Framework, tmp_path: Path) -> None:
    data = tmp_path / "x.csv"
    data.write_text("a,b,c,y\n" + "1,2,3,0.5\n0,1,2,0.25\n" * 3, encoding="utf-8")
    session = Session()
    vars(session)["framework"] = framework
    with pytest.raises(
        UsageError, match=r"predicts 2 values a sample \(large, ...\), and a file is scored by one column"
    ):
        score_model(session, done.model_path("float"), data, "y", "auto")
