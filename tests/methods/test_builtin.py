from __future__ import annotations

import pytest
import torch

from qcore.errors import PatternError
from qcore.methods import Method, Phase
from qcore.nn import QuantConv2d, QuantLinear
from qcore.plugins import Framework
from qcore.tasks.base import Task
from qcore.training.data import FoldTensors


@pytest.fixture(scope="module")
def framework() -> Framework:
    return Framework(no_plugins=True, config={})


@pytest.fixture(scope="module")
def digits(framework: Framework) -> Task:
    task: Task = framework.registry.make("task", "core/digits")
    return task


def make(framework: Framework, name: str, **options: object) -> Method:
    method: Method = framework.registry.make("method", name, **options)
    method.registry = framework.registry
    return method


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_options_of_the_network_reach_it_and_the_phase_has_the_method_s_numbers(
    framework: Framework, digits: Task
) -> None:
    method = make(framework, "float", hidden=[12], dropout=0.0, epochs=7, lr=0.5, batch_size=9, patience=None)
    (arm,) = method.arms()
    model = method.build(arm, digits, generator(), {})
    assert model.get_submodule("blocks.0.linear").out_features == 12
    (phase,) = method.phases(arm)
    assert (phase.epochs, phase.batch_size, phase.patience, phase.optimizers[0].lr) == (7, 9, None, 0.5)
    assert isinstance(phase, Phase) and arm.baseline


def test_ptq_quantizes_a_copy_of_the_float_arm_and_keeps_the_head(framework: Framework, digits: Task) -> None:
    method = make(framework, "ptq", quantizer="core/int(bits=4)", hidden=[12])
    base, ptq = method.arms()
    source = method.build(base, digits, generator(), {})
    model = method.build(ptq, digits, generator(), {"float": source})
    assert ptq.needs == ("float",) and method.phases(ptq) == []
    assert isinstance(model.get_submodule("blocks.0.linear"), QuantLinear)
    assert type(model.get_submodule("head")) is torch.nn.Linear
    assert not any(isinstance(module, QuantLinear) for module in source.modules())


def test_ptq_quantizes_convolutions_as_well(framework: Framework) -> None:
    from qcore.methods.ptq import ptq_rules
    from qcore.nn import build_model, quantize

    config = {"in_channels": 1, "out_features": 2, "image_size": 8, "width": 4}
    model = build_model("core/cnn", config, registry=framework.registry)
    quantized = quantize(model, ptq_rules(model, "core/int(bits=8)", None), registry=framework.registry)
    assert any(isinstance(module, QuantConv2d) for module in quantized.modules())


def test_a_keep_pattern_that_matches_nothing_is_an_error(framework: Framework, digits: Task) -> None:
    method = make(framework, "ptq", keep=["haed"], hidden=[12])
    source = method.build(method.arms()[0], digits, generator(), {})
    with pytest.raises(PatternError, match="haed"):
        method.build(method.arms()[1], digits, generator(), {"float": source})


def test_static_activation_scales_are_filled_from_the_training_part(framework: Framework, digits: Task) -> None:
    method = make(framework, "ptq", input="core/int(bits=8, granularity='tensor', dynamic=False)", hidden=[12])
    base, ptq = method.arms()
    source = method.build(base, digits, generator(), {}).eval()
    model = method.build(ptq, digits, generator(), {"float": source}).eval()
    inputs, targets = digits.data.inputs[:50], digits.data.targets[:50]
    ready = method.calibrate(ptq, model, FoldTensors(inputs, targets, inputs[:0], targets[:0]))
    assert torch.isfinite(ready(inputs)).all()
