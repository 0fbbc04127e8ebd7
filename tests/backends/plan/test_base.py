"""Programs: which values are float64, and what is said where they do not fit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qcore.backends.plan import Value
from qcore.errors import UsageError
from qcore.nn import PlanBuilder


def builder() -> tuple[PlanBuilder, Value, Value]:
    """Return a builder, a float32 value and a float64 one."""
    made = PlanBuilder(nn.Identity())
    return made, made.relu(made.input), made.linear(made.input, torch.ones(3, 3), precise=True)


def test_float64_values_are_known() -> None:
    made, _, wide = builder()
    soft = made.softmax(made.flatten(made.relu(wide)))
    program = made.program(made.choose(made.linear(soft, torch.ones(3, 3), precise=True), 1))
    titles = {step.title for step in program.steps if step.output in program.precise()}
    assert titles == {"float64 linear + relu", "flatten", "softmax", "float64 linear"}
    assert program(torch.ones(2, 3)).dtype is torch.float32


def test_what_takes_float32_refuses_float64_and_the_other_way_round() -> None:
    for build in (
        lambda made, single, wide: made.layer_norm(wide, None, None, 3, 1e-5),
        lambda made, single, wide: made.linear(wide, torch.ones(3, 3)),
        lambda made, single, wide: made.experts(single, wide, [nn.Identity().eval()]),
    ):
        made, single, wide = builder()
        with pytest.raises(UsageError, match="takes float32 values, not float64 ones"):
            made.program(build(made, single, wide))
    for build in (
        lambda made, single, wide: made.softmax(single),
        lambda made, single, wide: made.choose(single, 1),
        lambda made, single, wide: made.tilt(wide, single, torch.ones(3), torch.ones(3)),
    ):
        made, single, wide = builder()
        with pytest.raises(UsageError, match="takes float64 values"):
            made.program(build(made, single, wide))


def test_a_program_gives_float32() -> None:
    made, _, wide = builder()
    with pytest.raises(UsageError, match="a plan gives float32 values"):
        made.program(wide)
