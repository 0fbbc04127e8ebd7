from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import qcore
from qcore.nn import build_model, set_generator

NETWORKS = ("mobilenet_v2", "efficientnet_lite0")
BOTH = {"weight": "core/int(bits=8)", "input": "core/int(bits=8, granularity='tensor', dynamic=False)"}


def build(name: str = "mobilenet_v2", **options: object) -> nn.Module:
    return build_model(f"hetero_diffq/{name}", options, torch.Generator().manual_seed(0)).eval()


def small(name: str = "mobilenet_v2", **options: object) -> nn.Module:
    narrow = {"width": 0.25} if name == "mobilenet_v2" else {}
    return build(name, **narrow, reduction=8, out_features=10, **options)


def pictures(rows: int = 2, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (rows, 3, size, size), generator=torch.Generator().manual_seed(1)).float()


@pytest.mark.parametrize(
    ("name", "options", "parameters"),
    [
        ("mobilenet_v2", {}, 3_504_872),
        ("mobilenet_v2", {"width": 1.4}, 6_108_776),
        ("mobilenet_v2", {"width": 0.5}, 1_968_680),
        ("mobilenet_v2", {"norm": False, "out_features": 1001}, 3_489_097),
        ("efficientnet_lite0", {}, 4_652_008),
    ],
)
def test_the_number_of_parameters_is_the_published_one(name: str, options: dict[str, object], parameters: int) -> None:
    assert sum(parameter.numel() for parameter in build(name, **options).parameters()) == parameters


@pytest.mark.parametrize(
    ("name", "weights", "inputs", "norms"),
    [("efficientnet_lite0", 576_249, 834_532, 84_032), ("mobilenet_v2", 433_845, 827_084, 68_224)],
)
@torch.no_grad()
def test_sizes_are_those_that_papers_state(name: str, weights: int, inputs: int, norms: int) -> None:
    """At one bit, in bytes: weights with the head's bias, inputs of all layers but the first; norms at 16 bits.

    The figures for EfficientNet-Lite0 and the norms are those of arXiv:2206.07741; that paper's baselines count
    6,616,672 inputs and, with 1001 outputs, 3,472,041 weights of MobileNetV2.
    """
    model = build(name)
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    seen: list[int] = []
    for layer in (
        layers[1:] if layers[0] is model.stem.conv else [layer for layer in layers if layer is not model.stem.conv]
    ):
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0][0].numel()))
    model(pictures(1, 224))
    bits = sum(layer.weight.numel() for layer in layers) + model.head.bias.numel()
    held = [p.numel() for norm in model.modules() if isinstance(norm, nn.BatchNorm2d) for p in norm.parameters()]
    assert (round(bits / 8), sum(seen) // 8, 2 * sum(held)) == (weights, inputs, norms)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("reduction", "side"), [(4, 16), (8, 8), (16, 4), (32, 2)])
@torch.no_grad()
def test_the_reduction_says_how_large_the_last_map_is(name: str, reduction: int, side: int) -> None:
    model = build(name, reduction=reduction)
    assert model.stages(model.stem(torch.zeros(1, 3, 64, 64))).shape[2:] == (side, side)


def test_blocks_that_keep_their_shape_add_and_drop_more_the_deeper_they_are() -> None:
    blocks = [block for stage in build("efficientnet_lite0").stages for block in stage]
    shares = [None if block.drop is None else block.drop.drop.p for block in blocks]
    added = [place for place, share in enumerate(shares) if share is not None]
    assert len(blocks) == 16 and added == [2, 4, 6, 7, 9, 10, 12, 13, 14]
    assert [shares[place] for place in added] == pytest.approx([0.2 * place / 16 for place in added])
    assert sum(block.drop is not None for stage in build().stages for block in stage) == 10


def test_training_draws_from_the_generator_that_it_is_given() -> None:
    model = small("efficientnet_lite0").train()
    logits = []
    for seed in (1, 1, 2):
        set_generator(model, torch.Generator().manual_seed(seed))
        logits.append(model(pictures(4)))
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("options", [{}, {"padding": "tensorflow"}, {"norm": False, "padding": "tensorflow"}])
@torch.no_grad()
def test_packed_equals_eval_bit_for_bit_and_survives_a_file(options: dict[str, object], tmp_path: Path) -> None:
    model = qcore.calibrate(qcore.quantize(small(**options), {"*": BOTH}), [pictures(4)])
    packed = qcore.pack(model.eval())
    expected = model(pictures())
    assert torch.equal(packed(pictures()), expected)
    qcore.save(model, tmp_path / "model.safetensors")
    assert torch.equal(qcore.load(tmp_path / "model.safetensors")(pictures()), expected)


@torch.no_grad()
def test_all_norms_fold() -> None:
    packed = qcore.pack(qcore.quantize(small(), {"*": "core/int(bits=8)"}), fold=True)
    norms = qcore.explain(packed).norms
    assert len(norms) == 52 and all(norm.folded for norm in norms)


@pytest.mark.parametrize("options", [{}, {"padding": "tensorflow"}, {"norm": False, "padding": "tensorflow"}])
@pytest.mark.filterwarnings("ignore:.*does not compile this plan")
@torch.no_grad()
def test_a_plan_of_the_packed_network_computes_its_logits(options: dict[str, object]) -> None:
    model = qcore.calibrate(qcore.quantize(small(**options), {"*": BOTH}), [pictures(4)])
    packed = qcore.pack(model.eval(), fold=True)
    expected = packed(pictures())
    assert torch.allclose(qcore.compile_plan(packed)(pictures()), expected, rtol=1e-4, atol=0.01)
