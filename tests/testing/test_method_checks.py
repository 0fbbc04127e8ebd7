from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qcore
from qcore.errors import UsageError
from qcore.methods import Arm, Claim, Method, Phase, Verdict
from qcore.plugins import Framework
from qcore.registry import MethodSpec
from qcore.tasks import Task
from qcore.testing import method_checks
from qcore.testing.cases import Case, checks_of, run_case
from qcore.testing.subjects import Offer
from qcore.testing.tiny_task import TinyTask

CHECKS = {check.__name__.removeprefix("check_"): check for check in checks_of(method_checks)}
Sources = Mapping[str, nn.Module]


def claim(claim_id: str, statement: str = "it is so") -> Claim:
    return Claim(claim_id, statement, "family", lambda evidence: Verdict(verdict="holds", value=1.0, test="none"))


class Good(Method):
    """Float and int8."""

    def arms(self) -> list[Arm]:
        return [Arm("float", "as it is", baseline=True), Arm("int8", "in 8 bits", needs=("float",))]

    def build(self, arm: Arm, task: Task, generator: torch.Generator, sources: Sources) -> nn.Module:
        if arm.name == "float":
            return self.network(task, generator)
        chosen = {"weight": "core/int(bits=8)", "input": "core/int(bits=8, granularity='token')"}
        return qcore.quantize(sources["float"], {"head": None, "type:Linear": chosen}, registry=self.registry)

    def phases(self, arm: Arm) -> list[Phase]:
        return [self.main_phase()]

    def claims(self) -> list[Claim]:
        return [claim("a"), claim("b")]


class BaselineLast(Good):
    def arms(self) -> list[Arm]:
        return [Arm("int8", "first"), Arm("float", "last", baseline=True)]


class NeedsALaterArm(Good):
    def arms(self) -> list[Arm]:
        return [Arm("float", "as it is", needs=("int8",), baseline=True), Arm("int8", "in 8 bits")]


class DoublesAnArm(Good):
    def arms(self) -> list[Arm]:
        return [Arm("float", "as it is", baseline=True), Arm("float", "again")]


class DoublesAPhase(Good):
    def phases(self, arm: Arm) -> list[Phase]:
        return [self.main_phase(), self.main_phase()]


class DoublesAClaim(Good):
    def claims(self) -> list[Claim]:
        return [claim("a"), claim("a")]


class ClaimsNothing(Good):
    def claims(self) -> list[Claim]:
        return [claim("a", " ")]


class ForgetsTheTask(Good):
    def build(self, arm: Arm, task: Task, generator: torch.Generator, sources: Sources) -> nn.Module:
        model = super().build(arm, task, generator, sources)
        model.head = nn.utils.skip_init(nn.Linear, 64, 7)
        nn.init.zeros_(model.head.weight)
        nn.init.zeros_(model.head.bias)
        return model


class KnowsOneValue(Good):
    def build(self, arm: Arm, task: Task, generator: torch.Generator, sources: Sources) -> nn.Module:
        return super().build(arm, TinyTask(regression=task.problem == "regression"), generator, sources)


class RefusesRegression(Good):
    def check(self, task: Task) -> None:
        if task.problem == "regression":
            raise UsageError("classes alone")


class Shifty(nn.Module):
    """Gives another answer once it has been copied."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.shift = 0.0

    def __deepcopy__(self, memo: dict[int, Any]) -> Shifty:
        copied = Shifty(self.body)
        copied.shift = 1.0
        return copied

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.shift
        return out


class PacksOtherwise(Good):
    def arms(self) -> list[Arm]:
        return [Arm("float", "as it is", baseline=True)]

    def build(self, arm: Arm, task: Task, generator: torch.Generator, sources: Sources) -> nn.Module:
        return Shifty(super().build(arm, task, generator, sources))


class DrawsGlobally(Good):
    def build(self, arm: Arm, task: Task, generator: torch.Generator, sources: Sources) -> nn.Module:
        torch.rand(1)
        return super().build(arm, task, generator, sources)


class DrawsAnew(Good):
    seed = 0

    def build(self, arm: Arm, task: Task, generator: torch.Generator, sources: Sources) -> nn.Module:
        DrawsAnew.seed += 1
        return super().build(arm, task, torch.Generator().manual_seed(DrawsAnew.seed), sources)


def offer(target: type[Method], default_task: str = "core/digits") -> Offer:
    registry = Framework(load=False).registry
    target_name = f"{__name__}:{target.__name__}"
    spec = MethodSpec(
        name="tried", target=target_name, summary="for a test", config=Method.Config, default_task=default_task
    )
    (filled,) = registry.commit([spec], plugin="tests", distribution=None, version=None)
    return Offer(filled, registry)


@pytest.mark.parametrize("default_task", ["core/digits", "core/diabetes"])
@pytest.mark.parametrize("name", CHECKS)
def test_a_good_method_passes_every_check(name: str, default_task: str) -> None:
    result = run_case(Case(CHECKS[name], offer(Good, default_task)))
    assert result.status == "passed", result.message


FAULTY: list[tuple[type[Method], str, str]] = [
    (BaselineLast, "arms_can_be_compared", "baseline"),
    (NeedsALaterArm, "arms_can_be_compared", "needs 'int8'"),
    (DoublesAnArm, "arms_can_be_compared", "one name"),
    (DoublesAPhase, "phases_are_described", "one name"),
    (DoublesAClaim, "claims_are_statements", "one id"),
    (ClaimsNothing, "claims_are_statements", "no statement"),
    (ForgetsTheTask, "arms_predict", "(60, 7)"),
    (KnowsOneValue, "arms_predict_several_values", "rescales 1 outputs where the targets have 4"),
    (PacksOtherwise, "packed_equals_eval", "packed differs"),
    (DrawsGlobally, "builds_are_repeatable", "torch"),
    (DrawsAnew, "builds_are_repeatable", "differs in a second build"),
]


@pytest.mark.parametrize(("target", "name", "message"), FAULTY)
def test_a_faulty_method_is_caught(target: type[Method], name: str, message: str) -> None:
    result = run_case(Case(CHECKS[name], offer(target)))
    assert result.status == "failed"
    assert message in result.message


def test_a_method_that_takes_no_regression_need_not_give_several_values() -> None:
    result = run_case(Case(CHECKS["arms_predict_several_values"], offer(RefusesRegression)))
    assert result.status == "skipped" and "classes alone" in result.message


def test_every_check_has_a_faulty_method() -> None:
    assert set(CHECKS) == {name for _, name, _ in FAULTY}


@pytest.mark.parametrize("regression", [False, True])
def test_the_tiny_task_can_be_learned_from(regression: bool) -> None:
    task = TinyTask(regression)
    assert task.problem == ("regression" if regression else "classification")
    assert task.data.inputs.shape == (60, 8) and task.out_features == (1 if regression else 3)


def test_the_tiny_task_may_have_several_values_of_different_units() -> None:
    task = TinyTask(regression=True, outputs=4)
    assert task.out_features == 4 and task.data.target_names == ("y0", "y1", "y2", "y3")
    spread = task.data.targets.std(dim=0)
    assert torch.allclose(spread[1:] / spread[:-1], torch.tensor(10.0))
