from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qcore
from qcore.errors import UsageError
from qcore.nn import build_model, set_generator

WEIGHT = {"weight": "true4bit/tanh"}
BOTH = {**WEIGHT, "input": "true4bit/activation"}
FIRST = {**WEIGHT, "input": "core/int(bits=8, granularity='token')"}


def images(rows: int = 6) -> Tensor:
    return torch.randint(0, 256, (rows, 3, 16, 16), generator=torch.Generator().manual_seed(1)).float()


def trained(name: str, rules: dict[str, object]) -> nn.Module:
    """Return a quantized network whose norms and ranges have seen data."""
    generator = torch.Generator().manual_seed(0)
    model = build_model(f"true4bit/{name}", {"width": 8, "image_size": 16}, generator)
    model.fit_scalers(images(), torch.zeros(6))
    model = qcore.quantize(model, rules).train()
    set_generator(model, generator)
    with torch.no_grad():
        for _ in range(3):
            model(images())
    return model.eval()


def first_of(name: str) -> str:
    return "features.0" if name == "vgg4bit" else "stem.0"


@pytest.mark.parametrize("name", ["vgg4bit", "simple_resnet4bit"])
@pytest.mark.parametrize("fold", [False, True])
@torch.no_grad()
def test_a_plan_gives_the_packed_network_s_logits_bit_for_bit(name: str, fold: bool) -> None:
    model = trained(name, {first_of(name): FIRST, "type:Conv2d": BOTH, "type:Linear": BOTH})
    packed = qcore.pack(model, fold=fold)
    if not fold:
        assert torch.equal(packed(images()), model(images()))
    found, expected = qcore.compile_plan(packed)(images()), packed(images())
    if name == "vgg4bit":
        assert torch.equal(found, expected)
    else:  # the mean over space is a float sum
        assert torch.allclose(found, expected, rtol=1e-4, atol=0.02 * float(expected.abs().max()))


def test_the_folded_vgg_hands_over_codes_between_all_its_layers_but_the_first() -> None:
    model = trained("vgg4bit", {"features.0": FIRST, "type:Conv2d": BOTH, "type:Linear": BOTH})
    plan = qcore.compile_plan(qcore.pack(model, fold=True))
    given = [row["output"] for row in qcore.explain(plan).rows if row["op"].startswith("packed")]
    assert given == ["uint8 codes"] * 7 + ["floats"]


@torch.no_grad()
def test_weights_alone_in_four_bits_run_in_a_plan_within_rounding() -> None:
    model = trained("vgg4bit", {"type:Conv2d": WEIGHT, "type:Linear": WEIGHT})
    packed = qcore.pack(model)
    found, expected = qcore.compile_plan(packed)(images()), packed(images())
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_images_that_come_as_rows_are_refused_by_name() -> None:
    model = build_model("true4bit/vgg4bit", {"width": 4, "image_size": 8, "in_channels": 1, "flat": True}).eval()
    with pytest.raises(UsageError, match="rows"):
        qcore.compile_plan(model)
