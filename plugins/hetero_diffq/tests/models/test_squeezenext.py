from __future__ import annotations

import pytest
import torch
from torch import nn

import qcore
from qcore.nn import build_model


def build(**options: object) -> nn.Module:
    return build_model("hetero_diffq/squeezenext", options, torch.Generator().manual_seed(0)).eval()


@pytest.mark.parametrize(
    ("variant", "width", "parameters"),
    [
        ("23", 1.0, 724_056),
        ("23", 1.5, 1_511_824),
        ("23", 2.0, 2_583_752),
        ("23v5", 1.0, 921_816),
        ("23v5", 1.5, 1_953_616),
        ("23v5", 2.0, 3_366_344),
    ],
)
def test_the_number_of_parameters_is_that_of_the_networks_in_use(variant: str, width: float, parameters: int) -> None:
    model = build(variant=variant, width=width)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


@pytest.mark.parametrize(("reduction", "side"), [(8, 8), (16, 4), (32, 2)])
@torch.no_grad()
def test_the_reduction_says_how_large_the_last_map_is(reduction: int, side: int) -> None:
    model = build(width=0.25, reduction=reduction)
    assert model.stages(model.stem(torch.zeros(1, 3, 64, 64))).shape[2:] == (side, side)
    assert model(torch.zeros(2, 3, 33, 64)).shape == (2, 1000)


@torch.no_grad()
def test_a_plan_of_the_packed_and_folded_network_computes_its_logits() -> None:
    x = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(1)).float()
    model = build(width=0.25, reduction=8, out_features=10)
    packed = qcore.pack(qcore.quantize(model, {"*": "core/int(bits=8)"}), fold=True)
    norms = qcore.explain(packed).norms
    assert norms and all(norm.folded for norm in norms)
    assert torch.allclose(qcore.compile_plan(packed)(x), packed(x), rtol=1e-4, atol=1e-5)
