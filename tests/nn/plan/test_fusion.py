"""What is fused, and what is not because someone else reads it."""

from __future__ import annotations

import torch
from torch import nn

import qcore
from qcore.nn import PlanBuilder
from qcore.nn.plan.fusion import fuse

BITS4 = {"weight": "core/int(bits=4)", "input": "core/int(bits=8, granularity='token')"}


def titles(*layers: nn.Module) -> list[str]:
    model = nn.Sequential(*layers).eval()
    linear = [str(i) for i, layer in enumerate(layers) if type(layer) is nn.Linear and layer.in_features == 4]
    model = qcore.quantize(model, {name: BITS4 for name in linear}) if linear else model
    plan = qcore.compile_plan(qcore.pack(model, "core/reference"), "core/reference")
    return [step.title for step in plan.program.steps]


def test_batch_norm_and_relu_go_into_the_step_before_them() -> None:
    assert titles(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU()) == ["packed linear + batch norm + relu"]
    assert titles(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4)) == ["packed linear + relu", "batch norm"]
    assert titles(nn.Linear(3, 3), nn.ReLU()) == ["float linear + relu"]
    assert titles(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU()) == ["float linear", "batch norm + relu"]
    assert titles(nn.LayerNorm(3), nn.ReLU(), nn.ReLU()) == ["layer norm + relu", "relu"]
    assert titles(nn.Flatten(), nn.ReLU()) == ["flatten", "relu"]


def test_a_relu6_goes_into_the_packed_layer_before_it_and_nothing_goes_after_it() -> None:
    assert titles(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU6()) == ["packed linear + batch norm + relu up to 6"]
    assert titles(nn.Linear(4, 4), nn.ReLU6(), nn.ReLU6()) == ["packed linear + relu up to 6", "relu", "up to 6"]
    assert titles(nn.Linear(4, 4), nn.ReLU6(), nn.BatchNorm1d(4)) == ["packed linear + relu up to 6", "batch norm"]
    assert titles(nn.Linear(3, 3), nn.ReLU6()) == ["float linear + relu", "up to 6"]


def test_two_batch_norms_are_one_fused_and_one_alone() -> None:
    found = titles(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.ReLU())
    assert found == ["packed linear + batch norm", "batch norm + relu"]


def test_a_value_that_two_steps_read_stays() -> None:
    builder = PlanBuilder(nn.Identity())
    logits = builder.linear(builder.input, torch.ones(3, 3), precise=True)
    tilted = builder.tilt(builder.softmax(builder.relu(logits)), logits, torch.ones(3), torch.ones(3))
    found = [step.title for step in builder.program(builder.choose(tilted, 1)).steps]
    assert found == ["float64 linear", "relu", "softmax", "tilt", "choose 1"]


def test_a_relu_goes_into_the_sum_before_it_and_nothing_else_does() -> None:
    builder = PlanBuilder(nn.Identity())
    x = builder.relu(builder.input)
    y = builder.relu(builder.add(builder.linear(x, torch.ones(3, 3)), x))
    found = builder.program(builder.relu(builder.add(y, builder.relu(y))))
    assert [step.title for step in found.steps] == ["relu", "float linear", "add + relu", "relu", "add + relu"]


def test_the_output_of_a_program_stays() -> None:
    builder = PlanBuilder(nn.Identity())
    middle = builder.linear(builder.input, torch.ones(3, 3))
    builder.relu(middle)
    program = builder.program(middle)
    assert fuse(program).output == middle and program.steps[0].title == "float linear"
