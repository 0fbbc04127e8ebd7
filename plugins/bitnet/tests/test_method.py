from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import qcore
from qcore.errors import ConfigError
from qcore.methods import Arm, Progress
from qcore.nn import MLPBlock, QuantConv2d, QuantLayer, QuantLinear
from qcore.tasks import Task, TaskData
from qcore_bitnet.method import BitNet
from qcore_bitnet.ternary import Ternary


class Blobs(Task):
    """Three classes that the first feature tells apart."""

    def load(self) -> TaskData:
        inputs = torch.randn(48, 6, generator=torch.Generator().manual_seed(1))
        targets = torch.bucketize(inputs[:, 0].contiguous(), torch.tensor([-0.5, 0.5]))
        return TaskData(inputs=inputs, targets=targets, class_names=("a", "b", "c"), source="drawn")


class Pictures(Task):
    """Two classes of 8 x 8 pictures."""

    def load(self) -> TaskData:
        inputs = torch.randn(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        return TaskData(inputs=inputs, targets=torch.arange(12) % 2, class_names=("a", "b"), source="drawn")


def method(**options: object) -> BitNet:
    made: BitNet = qcore.get("method", "bitnet", **options)
    return made


def arm_of(made: BitNet, name: str) -> Arm:
    return next(arm for arm in made.arms() if arm.name == name)


def build(made: BitNet, name: str, task: Task | None = None) -> nn.Module:
    task = task or Blobs()
    sources = {}
    if arm_of(made, name).needs:
        sources["float"] = made.build(arm_of(made, "float"), task, torch.Generator().manual_seed(0), {})
    return made.build(arm_of(made, name), task, torch.Generator().manual_seed(0), sources)


def test_the_float_arm_comes_first_and_is_the_baseline() -> None:
    arms = method().arms()
    assert [arm.name for arm in arms] == ["float", "int8", "ternary", "binary", "ptq2", "ternary_converted"]
    assert [arm.name for arm in arms if arm.baseline] == ["float"]


def test_the_float_arm_has_no_quantized_layer() -> None:
    assert not [module for module in build(method(), "float").modules() if isinstance(module, QuantLayer)]


@pytest.mark.parametrize(
    ("name", "quantizer"),
    [
        ("int8", "core/int"),
        ("ternary", "bitnet/ternary"),
        ("binary", "bitnet/binary"),
        ("ptq2", "core/int"),
        ("ternary_converted", "bitnet/ternary"),
    ],
)
def test_hidden_layers_are_quantized_and_the_head_is_float(name: str, quantizer: str) -> None:
    model = build(method(), name)
    layers = [module for module in model.modules() if isinstance(module, QuantLinear)]
    assert len(layers) == 2
    assert {layer.weight_quantizer.spec_id for layer in layers} == {quantizer}
    assert {layer.input_quantizer.spec_id for layer in layers} == {"bitnet/absmax"}
    assert type(model.head) is nn.Linear


def test_a_convolutional_network_keeps_its_first_convolution_float() -> None:
    model = build(method(), "ternary", Pictures())
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d | QuantConv2d)]
    assert type(convolutions[0]) is nn.Conv2d
    assert all(type(module) is QuantConv2d for module in convolutions[1:]) and len(convolutions) > 2
    assert type(model.head) is nn.Linear


def test_all_arms_start_from_the_same_weights() -> None:
    made = method()
    weights = {name: build(made, name).state_dict()["blocks.0.linear.weight"] for name in ("float", "ternary", "int8")}
    assert torch.equal(weights["float"], weights["ternary"]) and torch.equal(weights["float"], weights["int8"])


def test_the_options_of_the_scale_reach_both_low_bit_arms() -> None:
    made = method(granularity="group", group_size=3)
    for name in ("ternary", "binary"):
        model = build(made, name)
        for layer in model.modules():
            if isinstance(layer, QuantLayer):
                assert layer.weight_quantizer.config.group_size == 3


def test_groups_without_a_size_are_refused() -> None:
    with pytest.raises(ConfigError, match="group_size"):
        method(granularity="group")


@pytest.mark.parametrize("subln", [True, False])
def test_subln_puts_a_norm_before_each_hidden_layer_after_the_first_in_every_arm(subln: bool) -> None:
    for name in ("float", "ternary"):
        blocks = [module for module in build(method(subln=subln), name).modules() if isinstance(module, MLPBlock)]
        norms = [isinstance(block.pre_norm, nn.LayerNorm) for block in blocks]
        assert norms == [False, *[subln] * (len(blocks) - 1)]
        assert len(blocks) > 1


def test_trained_arms_share_optimizer_schedule_and_stopping() -> None:
    made = method()
    phases = {name: made.phases(arm_of(made, name)) for name in ("float", "int8", "ternary", "binary")}
    assert phases["int8"] == phases["float"] and phases["binary"] == phases["ternary"]
    (coarse,), (optimizer,) = phases["ternary"][0].optimizers, phases["float"][0].optimizers
    assert coarse.lr == 5 * optimizer.lr
    assert replace(phases["ternary"][0], optimizers=()) == replace(phases["float"][0], optimizers=())
    assert replace(coarse, lr=optimizer.lr) == optimizer
    assert optimizer.weight_decay == 0.1
    assert (optimizer.weight_decay_schedule(0.4), optimizer.weight_decay_schedule(0.6)) == (1.0, 0.0)
    assert optimizer.lr_schedule(0.499) > 1.5 * optimizer.lr_schedule(0.5)


def test_two_bit_ptq_is_not_trained() -> None:
    made = method()
    assert made.phases(arm_of(made, "ptq2")) == []


def test_conversion_ramps_from_float_to_ternary() -> None:
    made = method(ramp_steps=10)
    model = build(made, "ternary_converted").train()
    (phase,) = made.phases(arm_of(made, "ternary_converted"))
    ramp: Callable[[nn.Module, Progress], None] = phase.before_step
    layer = model.blocks[0].linear
    ramp(model, Progress(0, 100, 0, 1))
    assert torch.equal(layer.fake_weight(), layer.weight)
    ramp(model, Progress(10, 100, 0, 1))
    assert len(layer.fake_weight().unique()) <= 3
    assert {module.blend for module in model.modules() if isinstance(module, Ternary)} == {1.0}


def test_the_source_of_a_conversion_is_left_alone() -> None:
    made, task = method(), Blobs()
    source = made.build(arm_of(made, "float"), task, torch.Generator().manual_seed(0), {})
    made.build(arm_of(made, "ternary_converted"), task, torch.Generator().manual_seed(0), {"float": source})
    assert not [module for module in source.modules() if isinstance(module, QuantLayer)]


def test_only_ternary_networks_are_observed() -> None:
    made, inputs = method(), Blobs().data.inputs
    assert made.observe(arm_of(made, "binary"), build(made, "binary"), inputs) == {}
    observed = made.observe(arm_of(made, "ternary"), build(made, "ternary"), inputs)
    assert set(observed) == {"wrong_codes", "bits", "bits_due"}
    assert {tuple(values.shape) for values in observed.values()} == {(48,)}


def test_a_short_run_ends_with_a_verdict_on_every_claim(tmp_path: Path) -> None:
    settings = {"epochs": 2, "conversion_epochs": 1, "hidden": [16]}
    run = qcore.run(
        plugin="bitnet", task="digits", folds=2, settings=settings, workers=1, latency=False, out=tmp_path / "run"
    )
    summary = json.loads((run.path / "summary.json").read_text())
    assert list(summary["arms"]) == [arm.name for arm in method().arms()]
    verdicts = {claim["id"]: claim["verdict"] for claim in summary["claims"]}
    assert set(verdicts) == {claim.id for claim in method().claims()}
    assert "untested" not in verdicts.values()
    for exact in ("codes_follow_the_formula", "packed_equals_eval", "five_weights_a_byte"):
        assert verdicts[exact] == "holds"
