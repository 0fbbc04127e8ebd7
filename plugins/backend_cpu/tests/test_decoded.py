from __future__ import annotations

import pytest
import torch
from torch import nn

import qcore


@pytest.mark.parametrize("weight", ["core/int(bits=4)", "core/int(bits=3, granularity='group', group_size=9)"])
@pytest.mark.parametrize("stride", [1, 2])
@torch.no_grad()
def test_a_convolution_of_floats_is_the_reference_s_bit_for_bit(weight: str, stride: int) -> None:
    model = qcore.quantize(nn.Sequential(nn.Conv2d(4, 6, 3, stride=stride, padding=1)), {"0": weight}).eval()
    packed = qcore.pack(model, backend="backend_cpu/cpu")
    assert packed[0].choice.backend == "backend_cpu/cpu" and "decoded once" in packed[0].choice.kernel.name
    x = torch.randn(3, 4, 9, 9)
    assert torch.equal(packed(x), model(x))
    assert packed[0].choice.kernel.nbytes == 4 * model[0].weight.numel()


@torch.no_grad()
def test_in_a_plan_it_is_a_float_convolution() -> None:
    layers = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(54, 3))
    packed = qcore.pack(qcore.quantize(layers.eval(), {"0": "core/int(bits=4)"}))
    plan = qcore.compile_plan(packed)
    assert plan.backend == "backend_cpu/cpu"
    assert "float conv2d" in qcore.explain(plan).rows[0]["op"]
    x = torch.randn(3, 4, 5, 5)
    torch.testing.assert_close(plan(x), packed(x), rtol=1e-5, atol=1e-5)
