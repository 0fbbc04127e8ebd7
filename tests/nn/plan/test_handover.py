"""Which values are handed over as codes, why others are not, and that no number changes."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qcore
from qcore.backends.plan import PackedStep, Program, Relu, Value
from qcore.errors import UsageError
from qcore.nn import MixtureOfExperts, PlanBuilder
from qcore.nn.plan.handover import hand_over, handed_over
from qcore.tensor import ActivationScheme

STATIC = "core/int(bits=8, granularity='tensor', dynamic=False, symmetric=False)"
SIGNED = "core/int(bits=8, granularity='tensor', dynamic=False)"
TOKEN = "core/int(bits=8, granularity='token')"


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rule(input: str | None = STATIC) -> Any:
    return "core/int(bits=4)" if input is None else {"weight": "core/int(bits=4)", "input": input}


def packed(model: nn.Module, rules: dict[str, Any], x: Tensor, backend: str = "reference") -> nn.Module:
    return qcore.pack(qcore.calibrate(qcore.quantize(model.eval(), rules), [x]), backend)


def program_of(model: nn.Module) -> Program:
    builder = PlanBuilder(model)
    with torch.no_grad():
        return builder.program(builder.lower(model, builder.input))


def reasons(program: Program) -> list[str]:
    return [found if isinstance(found, str) else "codes" for _, found in handed_over(program)]


def image_net(norms: bool = True) -> nn.Sequential:
    parts = [nn.Conv2d(3, 6, 3, padding=1), *[nn.BatchNorm2d(6)] * norms, nn.ReLU(), nn.MaxPool2d(2), nn.ReLU()]
    parts += [nn.Conv2d(6, 4, 3, padding=2, dilation=2, groups=2), nn.MaxPool2d(3, 1, 1), nn.Flatten()]
    return nn.Sequential(*parts, nn.Linear(4 * 9, 8), nn.ReLU(), nn.Linear(8, 3))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), bits=st.integers(2, 8), symmetric=st.booleans(), norms=st.booleans())
def test_a_program_of_codes_gives_the_bits_of_that_of_floats(
    seed: int, bits: int, symmetric: bool, norms: bool
) -> None:
    torch.manual_seed(seed)
    inputs = f"core/int(bits={bits}, granularity='tensor', dynamic=False, symmetric={symmetric})"
    x = normal(5, 3, 6, 6, seed=seed)
    program = program_of(packed(image_net(norms), {"*": rule(inputs)}, x[:2]))
    coded = hand_over(program)
    assert len(coded.handed_over()) == 7
    x[1, 2, 3, 4] = torch.nan
    assert torch.equal(coded(x).nan_to_num(77), program(x).nan_to_num(77))
    found = coded.steps[0].apply(x)
    assert found.dtype is torch.float32
    assert torch.equal(found[0], found[0].round())


def test_each_step_says_what_it_hands_over() -> None:
    model = packed(image_net(), {"*": rule()}, normal(8, 3, 6, 6))
    program = program_of(model)
    assert reasons(program) == ["codes"] * 6 + ["codes", "it is the plan's output"]
    rows = qcore.explain(qcore.compile_plan(model, "reference")).rows
    assert [(row["output"], row["why_floats"]) for row in rows][0] == ("floats", "core/reference gets no codes")
    assert "gives floats: it is the plan's output" in str(qcore.explain(qcore.compile_plan(model, "reference")))


@pytest.mark.parametrize(
    ("model", "rules", "words"),
    [
        (nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), {"0": rule(), "1": rule(TOKEN)}, "range anew at each call"),
        (nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), {"0": rule(), "1": rule(None)}, "only its weight is"),
        (nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 6)), {"*": rule()}, r"1 \(layer norm\) takes"),
        (nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), {"0": rule()}, r"1 \(float linear\) takes floats"),
        (nn.Sequential(nn.Linear(6, 6), nn.Flatten(), nn.Linear(6, 6)), {"*": rule()}, "mixes the tokens"),
    ],
)
def test_floats_have_a_reason(model: nn.Module, rules: dict[str, Any], words: str) -> None:
    program = program_of(packed(model, rules, normal(8, 6)))
    (first, *_) = reasons(program)
    assert re.search(words, first)
    assert not hand_over(program).handed_over()


def test_a_layer_that_reads_the_axes_otherwise_gets_floats() -> None:
    model = packed(nn.Sequential(nn.Conv2d(2, 3, 1), nn.Linear(5, 4)), {"*": rule()}, normal(4, 2, 5, 5))
    assert "reads its axes otherwise" in reasons(program_of(model))[0]


class Fork(nn.Module):
    """One layer, whose output two others read."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        self.right(y)
        left: Tensor = self.left(y)
        return left

    def plan(self, builder: PlanBuilder, x: Value) -> Value:
        y = builder.relu(builder.lower(self.first, x))
        left = builder.lower(self.left, y)
        builder.lower(self.right, y)
        return left


def test_several_readers_get_codes_if_their_ranges_agree() -> None:
    model = packed(Fork(), {"*": rule()}, normal(8, 6))
    assert reasons(program_of(model))[0] == "codes"
    other: Any = Fork()
    mixed = packed(other, {"right": rule(SIGNED), "*": rule()}, normal(8, 6))
    assert reasons(program_of(mixed))[0] == "the layers that read it have different ranges"


def test_the_experts_of_a_mixture_hand_over_codes_within_them() -> None:
    router = qcore.get("router", "core/topk", in_features=6, experts=2, k=1)
    experts = [nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)) for _ in range(2)]
    x = normal(60, 6)
    model = packed(MixtureOfExperts(experts, router), {"experts.*": rule()}, x)
    program = program_of(model)
    coded = hand_over(program)
    steps = [step for step in coded.walk() if isinstance(step, PackedStep)]
    assert [(step.coded, step.codes is not None) for step in steps] == [(False, True), (True, False)] * 2
    assert torch.equal(coded(x), program(x))
    assert len(list(handed_over(program))) == len(list(program.walk()))


def test_a_program_that_hands_over_what_nobody_takes_is_refused() -> None:
    scheme = ActivationScheme(8, True, False, low=-torch.ones(1, 1), high=torch.ones(1, 1))
    with pytest.raises(UsageError, match="takes codes"):
        Program((Relu((Value(0),), Value(1), "r", codes=scheme),), Value(1)).handed_over()
    program = hand_over(
        program_of(packed(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 6)), {"*": rule()}, normal(4, 6)))
    )
    with pytest.raises(UsageError, match="gives floats, not codes"):
        Program(program.steps[:1], Value(1)).handed_over()
    with pytest.raises(UsageError, match="takes floats"):
        Program((program.steps[0], Relu((Value(1),), Value(2), "r")), Value(2)).handed_over()
