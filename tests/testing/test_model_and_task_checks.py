from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from qcore.errors import DataError
from qcore.nn import init
from qcore.plugins import Framework
from qcore.registry import ModelSpec, Spec, TaskSpec
from qcore.tasks import Task, TaskConfig, TaskData
from qcore.testing import model_checks, task_checks
from qcore.testing.cases import Case, checks_of, run_case
from qcore.testing.subjects import Offer

MODEL_CHECKS = {check.__name__.removeprefix("check_"): check for check in checks_of(model_checks)}
TASK_CHECKS = {check.__name__.removeprefix("check_"): check for check in checks_of(task_checks)}


class Width(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    in_features: int = Field(description="features")
    width: int = Field(default=2, description="outputs")


def good_model(config: Width, generator: torch.Generator) -> nn.Module:
    return init.linear(config.in_features, config.width, generator)


def global_model(config: Width, generator: torch.Generator) -> nn.Module:
    return nn.Linear(config.in_features, config.width)


def constant_model(config: Width, generator: torch.Generator) -> nn.Module:
    return init.linear(config.in_features, config.width, torch.Generator().manual_seed(3))


def growing_model(config: Width, generator: torch.Generator) -> nn.Module:
    return init.linear(config.in_features, 1 + int(generator.initial_seed()), generator)


class GoodTask(Task):
    """Two classes, drawn from a seed."""

    def load(self) -> TaskData:
        return self.drawn(0)

    def drawn(self, seed: int, **changes: Any) -> TaskData:
        inputs = torch.randn(30, 2, generator=torch.Generator().manual_seed(seed))
        given = {"targets": torch.arange(30) % 2, "class_names": ("a", "b"), "feature_names": ("x", "y")}
        return TaskData(inputs=inputs, **{**given, "source": "drawn", **changes})


class NamelessTask(GoodTask):
    """Lacks a name of a feature."""

    def load(self) -> TaskData:
        return self.drawn(0, feature_names=("x",))


class ChangingTask(GoodTask):
    """Draws anew each time."""

    seed = 0

    def load(self) -> TaskData:
        ChangingTask.seed += 1
        return self.drawn(self.seed)


class RegressionTask(GoodTask):
    """Is not what its spec says."""

    def load(self) -> TaskData:
        return self.drawn(0, targets=torch.arange(30.0), class_names=())


class SeveralTask(GoodTask):
    """Two values a sample."""

    def load(self) -> TaskData:
        return self.drawn(0, targets=torch.ones(30, 2), class_names=(), target_names=("low", "high"))


class OwnSplitTask(GoodTask):
    """Has one fixed split."""

    def load(self) -> TaskData:
        return self.drawn(0, folds=(torch.arange(30) < 10).long() - 1)


class NamelessTargetsTask(GoodTask):
    """Two values a sample without names."""

    def load(self) -> TaskData:
        return self.drawn(0, targets=torch.ones(30, 2), class_names=())


class OneFoldTask(GoodTask):
    """All samples are in one fold of its own, so that nothing is left to train on."""

    def load(self) -> TaskData:
        return self.drawn(0, folds=torch.zeros(30, dtype=torch.int64))


class AbsentTask(GoodTask):
    """Has no data here."""

    def load(self) -> TaskData:
        raise DataError("samples.csv is not there")


def offer(spec: Spec, **options: Any) -> Offer:
    registry = Framework(load=False).registry
    (filled,) = registry.commit([spec], plugin="tests", distribution=None, version=None)
    return Offer(filled, registry, options)


def model(target: Any) -> Offer:
    spec = ModelSpec(name="tried", target=f"{__name__}:{target.__name__}", summary="for a test", config=Width)
    return offer(spec, in_features=3)


def task(target: type[Task], needs: str | None = None) -> Offer:
    name = f"{__name__}:{target.__name__}"
    return offer(TaskSpec(name="tried", target=name, summary="for a test", config=TaskConfig, needs=needs))


@pytest.mark.parametrize("name", MODEL_CHECKS)
def test_a_good_model_passes_every_check(name: str) -> None:
    result = run_case(Case(MODEL_CHECKS[name], model(good_model)))
    assert result.status == "passed", result.message


@pytest.mark.parametrize(
    ("target", "name", "message"),
    [
        (global_model, "one_seed_gives_one_network", "global random state of torch"),
        (constant_model, "seeds_differ", "not used"),
        (growing_model, "rebuilt_from_its_architecture", ""),
    ],
)
def test_a_faulty_model_is_caught(target: Any, name: str, message: str) -> None:
    result = run_case(Case(MODEL_CHECKS[name], model(target)))
    assert result.status == "failed"
    assert message in result.message


@pytest.mark.parametrize("name", [name for name in TASK_CHECKS if name != "problem_is_its_specs"])
def test_a_good_task_of_several_values_passes_every_check(name: str) -> None:
    result = run_case(Case(TASK_CHECKS[name], task(SeveralTask)))
    assert result.status == "passed", result.message


@pytest.mark.parametrize("name", TASK_CHECKS)
def test_a_good_task_with_its_own_split_passes_every_check(name: str) -> None:
    result = run_case(Case(TASK_CHECKS[name], task(OwnSplitTask)))
    assert result.status == "passed", result.message


@pytest.mark.parametrize("name", TASK_CHECKS)
def test_a_good_task_passes_every_check(name: str) -> None:
    result = run_case(Case(TASK_CHECKS[name], task(GoodTask)))
    assert result.status == "passed", result.message


@pytest.mark.parametrize(
    ("target", "name", "message"),
    [
        (NamelessTask, "data_are_whole", "1 names"),
        (NamelessTargetsTask, "data_are_whole", "0 names of targets for 2 outputs"),
        (ChangingTask, "data_do_not_change", "other data"),
        (RegressionTask, "problem_is_its_specs", "regression"),
        (OneFoldTask, "folds_are_disjoint", ""),
    ],
)
def test_a_faulty_task_is_caught(target: type[Task], name: str, message: str) -> None:
    result = run_case(Case(TASK_CHECKS[name], task(target)))
    assert result.status == "failed"
    assert message in result.message


@pytest.mark.parametrize("name", TASK_CHECKS)
def test_absent_data_are_skipped_with_the_reason(name: str) -> None:
    absent = run_case(Case(TASK_CHECKS[name], task(AbsentTask)))
    assert absent.status == "skipped" and "samples.csv" in absent.message
    needy = run_case(Case(TASK_CHECKS[name], task(GoodTask, needs="a file")))
    assert needy.status == "skipped" and "a file" in needy.message
