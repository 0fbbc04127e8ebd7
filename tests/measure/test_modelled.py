from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qcore
from qcore.measure.energy import modelled_energy
from qcore.measure.modelled import PICOJOULES, count_macs

INT8 = "core/int(bits=8, granularity='token')"


def mlp() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 4))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return model.eval()


def test_float_products_are_counted_wherever_they_stand() -> None:
    assert count_macs(mlp(), torch.zeros(3, 6)) == {"fp32": 3 * (6 * 10 + 10 * 4)}

    class Bare(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.linear(x.double(), torch.zeros(5, 6, dtype=torch.float64)) @ torch.zeros(5, 2).double()

    assert count_macs(Bare(), torch.zeros(3, 6)) == {"fp32": 3 * (6 * 5 + 5 * 2)}


def test_a_convolution_counts_outputs_times_kernel() -> None:
    conv = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, groups=2))
    images = torch.zeros(2, 4, 9, 9)
    expected = 2 * 6 * 4 * 4 * (2 * 3 * 3)
    assert count_macs(conv, images) == {"fp32": expected}
    model = qcore.quantize(conv, {"0": {"weight": "core/int(bits=4)", "input": INT8}}).eval()
    assert count_macs(model, images)["int8"] == expected
    assert count_macs(qcore.pack(model), images)["int8"] == expected


@pytest.mark.parametrize(
    ("rule", "kind"),
    [
        ({"weight": "core/int(bits=4)", "input": INT8}, "int8"),
        ({"weight": "core/int(bits=1)", "input": INT8}, "add"),
        ({"weight": "core/int(bits=4)"}, "fp32"),
        ({"input": INT8}, "fp32"),
    ],
)
def test_quantized_layers_count_by_what_they_compute_in_packed_or_not(rule: dict[str, Any], kind: str) -> None:
    model = qcore.quantize(mlp(), {"0": rule}).eval()
    expected = {"fp32": 3 * 40, "int8": 0, "add": 0}
    expected[kind] += 3 * 60
    for one in (model, qcore.pack(model)):
        macs = count_macs(one, torch.ones(3, 6))
        assert {name: macs[name] for name in expected} == expected


def test_joules_are_macs_times_prices_and_name_their_source() -> None:
    found = modelled_energy(
        qcore.quantize(mlp(), {"0": {"weight": "core/int(bits=4)", "input": INT8}}), torch.ones(3, 6)
    )
    assert found.joules == pytest.approx(1e-12 * (3 * 40 * 4.6 + 3 * 60 * 0.3))
    assert found.joules_per_sample == pytest.approx(found.joules / 3)
    assert "Horowitz" in found.source and "no data movement" in found.source
    assert found.as_dict()["value"] == found.joules_per_sample and found.as_dict()["samples"] == 3


def test_prices_fall_with_the_precision() -> None:
    assert PICOJOULES["fp32"] > PICOJOULES["int8"] > PICOJOULES["add"] > 0


def test_only_what_is_executed_counts() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(6, 10), nn.Linear(6, 10)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.first(x)
            return out

    assert count_macs(Half(), torch.zeros(2, 6))["fp32"] == 120


def test_counting_leaves_the_model_as_it_was() -> None:
    model = qcore.quantize(mlp(), {"0": {"weight": "core/int(bits=4)", "input": INT8}}).train()
    count_macs(model, torch.ones(3, 6))
    assert model.training
    assert all(not layer._forward_hooks and not layer._forward_pre_hooks for layer in model.modules())
