from __future__ import annotations

import pytest
import torch
from torch import nn

import qcore
from qcore.backends.plan import Clamp, Value


def test_it_keeps_what_lies_between_its_bounds() -> None:
    step = Clamp((Value(0),), Value(1), "act", 0.0, 6.0)
    x = torch.tensor([-1.0, 0.0, 2.5, 6.0, 7.0, torch.inf, -torch.inf])
    assert step.apply(x).tolist() == [0.0, 0.0, 2.5, 6.0, 6.0, 6.0, 0.0]
    assert step.apply(torch.tensor([torch.nan])).isnan().all()
    assert step.title == "clamp to 0..6" and step.infer((3, 4)) == (3, 4) and step.bound == 0.0


@pytest.mark.parametrize("activation", [nn.ReLU6(), nn.Hardtanh(-0.5, 0.25)])
@torch.no_grad()
def test_a_plan_of_torch_s_modules_gives_their_numbers(activation: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(4, 8), activation).eval()
    x = 9 * torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(qcore.compile_plan(model, "core/reference")(x), model(x), atol=1e-5)
    alone = qcore.compile_plan(nn.Sequential(activation).eval(), "core/reference")
    assert torch.equal(alone(x), activation(x))
