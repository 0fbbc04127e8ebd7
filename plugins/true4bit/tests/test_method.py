from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import qcore
from qcore.errors import ConfigError, UsageError
from qcore.methods import Arm
from qcore.nn import QuantLayer, build_model
from qcore.plugins import default
from qcore.tasks import Task, TaskData
from qcore.tensor import QTensor
from qcore.training import FoldTensors, fit, make_fabric
from qcore_true4bit.clip import SoftClip
from qcore_true4bit.method import True4Bit
from qcore_true4bit.observe import layer_codes, observe_layers
from qcore_true4bit.quantizers.tanh import TanhQuantizer
from qcore_true4bit.resident import ResidentLayer

ARMS = (
    ["float", "float_clip", "true4bit", "no_clip", "fixed_scale", "no_grad_clip", "plain"]
    + ["dorefa4", "lsq4", "ptq4", "resident", "resident_residual", "w4a8", "w4a4"]
)  # fmt: skip


class Pictures(Task):
    """Two classes of 8 x 8 pictures; the brighter half tells."""

    def load(self) -> TaskData:
        targets = torch.arange(48) % 2
        inputs = torch.randint(0, 100, (48, 3, 8, 8), generator=torch.Generator().manual_seed(1))
        inputs[targets == 1, :, :4] += 100
        return TaskData(inputs=inputs.to(torch.uint8), targets=targets, class_names=("a", "b"), source="drawn")


class Rows(Pictures):
    """The same number of samples as rows of numbers."""

    def __init__(self, features: int, regression: bool = False) -> None:
        super().__init__()
        self.features, self.regression = features, regression

    def load(self) -> TaskData:
        inputs = torch.randn(48, self.features, generator=torch.Generator().manual_seed(1))
        targets = inputs[:, 0] if self.regression else torch.arange(48) % 2
        names = () if self.regression else ("a", "b")
        return TaskData(inputs=inputs, targets=targets, class_names=names, source="drawn")


def method(**options: object) -> True4Bit:
    made: True4Bit = qcore.get("method", "true4bit", **{"width": 4, **options})
    made.registry = default().registry
    return made


def arm_of(made: True4Bit, name: str) -> Arm:
    return next(arm for arm in made.arms() if arm.name == name)


def build(made: True4Bit, name: str, sources: Mapping[str, nn.Module] | None = None) -> nn.Module:
    return made.build(arm_of(made, name), Pictures(), torch.Generator().manual_seed(0), sources or {})


def layers(model: nn.Module) -> list[QuantLayer]:
    return [module for module in model.modules() if isinstance(module, QuantLayer)]


def train(made: True4Bit, name: str) -> nn.Module:
    model, data = build(made, name), Pictures().data
    parts = FoldTensors(data.inputs, data.targets, data.inputs[:0], data.targets[:0])
    phases = made.phases(arm_of(made, name))
    fit(model, phases, parts, Pictures(), generator=torch.Generator().manual_seed(0), fabric=make_fabric("cpu"))
    return model


def test_the_arms_are_the_twins_the_paper_its_ablation_and_its_rivals() -> None:
    arms = method().arms()
    assert [arm.name for arm in arms] == ARMS
    assert [arm.name for arm in arms if arm.baseline] == ["float"]


@pytest.mark.parametrize("name", [name for name in ARMS if name not in ("float", "float_clip", "dorefa4", "ptq4")])
def test_every_layer_is_quantized_the_first_and_the_last_included(name: str) -> None:
    model = build(method(), name)
    if arm_of(method(), name).options.get("resident"):
        assert sum(isinstance(module, ResidentLayer) for module in model.modules()) == 8
        assert not [module for module in model.modules() if isinstance(module, nn.Conv2d | nn.Linear | QuantLayer)]
    else:
        assert len(layers(model)) == 8
        assert {type(layer.weight_quantizer) for layer in layers(model)} == {TanhQuantizer}


def test_dorefa_keeps_the_first_and_the_last_layer_float() -> None:
    model = build(method(), "dorefa4")
    assert len(layers(model)) == 6
    assert type(model.features[0]) is nn.Conv2d and type(model.classifier[-1]) is nn.Linear


@pytest.mark.parametrize(("name", "bits"), [("w4a8", 8), ("w4a4", 4)])
def test_inputs_are_quantized_the_first_by_eight_bits_a_sample(name: str, bits: int) -> None:
    first, *others = layers(build(method(), name))
    assert first.input_quantizer.describe()["granularity"] == "token" and first.input_quantizer.config.bits == 8
    assert {layer.input_quantizer.spec_id for layer in others} == {"true4bit/activation"}
    assert {layer.input_quantizer.config.bits for layer in others} == {bits}


def test_all_arms_start_from_the_same_weights() -> None:
    made = method()
    names = [name for name in ARMS if not (arm_of(made, name).needs or arm_of(made, name).options.get("resident"))]
    weights = {name: build(made, name).features[0].weight for name in names}
    assert all(torch.equal(weight, weights["float"]) for weight in weights.values())


def test_a_step_clips_gradients_then_moves_then_clips_softly() -> None:
    made = method(epochs=1, batch_size=48, dropout=0.0)
    found, reference = train(made, "true4bit"), build(made, "true4bit").train()
    data = Pictures().data
    reference.fit_scalers(data.inputs, data.targets)
    streams = torch.randint(2**62, (3,), generator=torch.Generator().manual_seed(0)).tolist()
    order = torch.randperm(48, generator=torch.Generator().manual_seed(streams[0]))
    loss = nn.functional.cross_entropy(reference(data.inputs[order].float()), data.targets[order])
    loss.backward()
    parameters = list(reference.parameters())
    norm = torch.nn.utils.clip_grad_norm_(parameters, 0.5)
    assert float(norm) > 0.5  # else this would not see whether the gradients are clipped
    torch.optim.AdamW(parameters, lr=1e-3, weight_decay=5e-4, fused=True).step()
    with torch.no_grad():
        for parameter in parameters:
            if parameter.dim() >= 2:
                parameter.copy_(3.0 * torch.tanh(parameter / 3.0))
    for ours, theirs in zip(found.parameters(), parameters, strict=True):
        assert torch.equal(ours, theirs)


def test_the_recipe_differs_where_an_arm_says_so_and_nowhere_else() -> None:
    made = method()
    phases = {name: made.phases(arm_of(made, name)) for name in ARMS}
    assert phases.pop("ptq4") == []
    assert len({phase.optimizers for (phase,) in phases.values()}) == 1
    assert {name for name, (phase,) in phases.items() if phase.before_step} == {"resident", "resident_residual"}
    assert {name for name, (phase,) in phases.items() if phase.grad_clip is None} == {"no_grad_clip", "plain"}
    clipped = {name for name, (phase,) in phases.items() if isinstance(phase.after_step, SoftClip)}
    assert clipped == {"float_clip", "true4bit", "fixed_scale", "no_grad_clip", "w4a8", "w4a4"}
    assert all(phase.grad_clip in (None, 0.5) and not phase.restore_best for (phase,) in phases.values())


@pytest.mark.parametrize("name", ["resident", "resident_residual"])
def test_resident_weights_become_ordinary_quantized_layers_of_the_same_codes(name: str) -> None:
    made = method(epochs=2, batch_size=16)
    model = build(made, name)
    before = [codes.codes for _, codes in layer_codes(model)]
    data = Pictures().data
    parts = FoldTensors(data.inputs, data.targets, data.inputs[:0], data.targets[:0])
    phases, arm = made.phases(arm_of(made, name)), arm_of(made, name)
    fit(model, phases, parts, Pictures(), generator=torch.Generator().manual_seed(0), fabric=make_fabric("cpu"))
    codes = [codes.codes for _, codes in layer_codes(model)]
    assert not all(torch.equal(now, then) for now, then in zip(codes, before, strict=True))
    with torch.no_grad():
        expected = model(data.inputs.float())
        ready = made.calibrate(arm, model, parts).eval()
        assert torch.equal(ready(data.inputs.float()), expected)
    assert [type(layer.weight_quantizer) for layer in layers(ready)] == [TanhQuantizer] * 8
    for (_, found), wanted in zip(layer_codes(ready), codes, strict=True):
        assert torch.equal(found.codes, wanted)


def test_resident_training_holds_at_most_a_quarter_of_what_float_training_does() -> None:
    held = {}
    for name in ("float", "resident", "resident_residual"):
        made = method(epochs=1, width=16)
        model, data = build(made, name), Pictures().data
        parts = FoldTensors(data.inputs, data.targets, data.inputs[:0], data.targets[:0])
        phases, generator = made.phases(arm_of(made, name)), torch.Generator().manual_seed(0)
        held[name] = fit(model, phases, parts, Pictures(), generator=generator, fabric=make_fabric("cpu")).state_nbytes
    total = {name: sum(parts.values()) for name, parts in held.items()}
    assert total["resident"] < total["resident_residual"] < 0.25 * total["float"]
    assert held["resident"]["weights"] == held["resident_residual"]["weights"]


def test_the_best_epoch_counts_if_asked() -> None:
    made = method(checkpoint="best")
    assert made.phases(arm_of(made, "float"))[0].restore_best


@pytest.mark.parametrize("model", ["vgg4bit", "simple_resnet4bit"])
def test_packing_takes_half_a_byte_for_each_weight_of_whole_rows(model: str) -> None:
    made = method(model=model, width=None)
    network = made.build(arm_of(made, "true4bit"), _Photographs(), torch.Generator().manual_seed(0), {})
    packed = [QTensor.pack(codes) for _, codes in layer_codes(network)]
    nbytes = sum(block.data.numel() for qtensor in packed for block in qtensor.blocks)
    # The first convolution has 27 columns: its rows end within a byte.
    first = packed[0].rows
    assert nbytes == sum(q.rows * q.cols for q in packed) // 2 + first // 2
    for qtensor, (_, codes) in zip(packed, layer_codes(network), strict=True):
        assert torch.equal(qtensor.unpack().codes, codes.codes)


@pytest.mark.parametrize(("classes", "nbytes"), [(10, 1_623_392), (100, 1_646_432)])
def test_the_weights_of_the_vgg_are_as_many_half_bytes_as_the_paper_s(classes: int, nbytes: int) -> None:
    network = build_model("true4bit/vgg4bit", {"out_features": classes}, torch.Generator().manual_seed(0))
    weights = sum(m.weight.numel() for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert weights / 2 == nbytes


def test_codes_are_watched_after_each_epoch() -> None:
    made = method(epochs=2)
    (phase,) = made.phases(arm_of(made, "true4bit"))
    seen = phase.after_epoch(build(made, "true4bit"), None)
    assert len(seen["layers"]) == 8
    for layer in seen["layers"].values():
        assert layer["levels"] <= 15 and layer["top"] == 7 and 0 < layer["entropy"] < 3.91
    assert made.phases(arm_of(made, "float"))[0].after_epoch is None
    json.dumps(seen)


def test_what_is_observed_of_a_layer_is_counted_by_hand() -> None:
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.7, 0.7, 0.0, -0.1]]))
    (found,) = observe_layers(qcore.quantize(model, {"0": {"weight": "true4bit/tanh"}})).values()
    assert found["levels"] == 3 and found["top"] == 7
    assert found["entropy"] == pytest.approx(1.5) and found["saturation"] == pytest.approx(0.5)
    assert found["scale"] == pytest.approx(0.1)


@pytest.mark.parametrize("features", [8, 16, 60])
def test_rows_that_are_no_images_are_refused(features: int) -> None:
    with pytest.raises(UsageError, match="convolutional|too small"):
        method().check(Rows(features))


def test_a_regression_is_refused() -> None:
    with pytest.raises(UsageError, match="regression"):
        method().check(Rows(64, regression=True))


def test_rows_of_a_square_number_of_pixels_are_grey_images() -> None:
    made = method(width=None)
    made.check(Rows(64))
    network = made.build(arm_of(made, "float"), Rows(64), torch.Generator().manual_seed(0), {})
    assert network.features[0].weight.shape == (16, 1, 3, 3)
    assert network.eval()(torch.rand(2, 64)).shape == (2, 2)


@pytest.mark.parametrize("option", [{"hidden": [24]}, {"dropout": 0.3}])
def test_options_that_a_network_has_not_are_refused(option: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="neither a hidden layer nor dropout"):
        method(model="simple_resnet4bit", **option)


def test_the_hidden_layer_is_one_number() -> None:
    assert build(method(hidden=[24]), "float").classifier[1].out_features == 24
    with pytest.raises(ConfigError, match="one number"):
        method(hidden=[24, 24])


def test_a_short_run_ends_with_a_verdict_on_every_claim(tmp_path: Path) -> None:
    settings = {"epochs": 1, "width": 4}
    run = qcore.run(
        plugin="true4bit", task="digits", folds=2, settings=settings, workers=1, latency=False, out=tmp_path / "run"
    )
    summary = json.loads((run.path / "summary.json").read_text())
    assert list(summary["arms"]) == [arm.name for arm in method().arms()]
    verdicts = {claim["id"]: claim["verdict"] for claim in summary["claims"]}
    assert set(verdicts) == {claim.id for claim in method().claims()}
    untested = {claim for claim, found in verdicts.items() if found == "untested"}
    assert untested == {"file_is_7_8_times_smaller", "folded_file_is_7_9_times_smaller"}
    assert verdicts["fifteen_levels"] == verdicts["packed_equals_eval"] == "holds"
    (row,) = run.history("true4bit")
    assert len(row["observed"]["layers"]) == 8


class _Photographs(Pictures):
    """The shape of CIFAR-10's images."""

    def load(self) -> TaskData:
        names = tuple(f"class {number}" for number in range(10))
        inputs: Tensor = torch.zeros(10, 3, 32, 32, dtype=torch.uint8)
        return TaskData(inputs=inputs, targets=torch.arange(10), class_names=names, source="drawn")
