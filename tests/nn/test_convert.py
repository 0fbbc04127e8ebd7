"""quantize swaps layers and leaves the rest; calibrate fills static ranges."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import qcore
from qcore.errors import ConfigError, DataError, PatternError, QuantizationError, UnknownNameError
from qcore.nn import MixtureOfExperts, QuantConv2d, QuantLinear, architecture_of, build_model
from qcore.nn import convert as convert_module
from qcore.nn.convert import calibrate, quantize
from qcore.quantizers import make_quantizer
from qcore.routers import Router, RouterConfig, Routing

TOKEN = "core/int(granularity='token')"
STATIC = "core/int(granularity='tensor', dynamic=False)"
INT4 = {"*": {"weight": "core/int(bits=4)", "input": TOKEN}}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(model: nn.Module) -> Any:
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


def mlp() -> Any:
    return filled(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))


class Twice(nn.Module):
    """One layer under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = self.a

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.b(self.a(x))
        return out


class Tied(nn.Module):
    """An encoder and a decoder that share one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.second(self.first(x))
        return out


def test_the_model_given_is_left_alone() -> None:
    model = mlp()
    before, x = copy.deepcopy(model), normal(4, 6)
    made = quantize(model, INT4)
    made.train()(x).sum().backward()
    assert [type(layer) for layer in model] == [type(layer) for layer in before]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
    assert isinstance(made[0], QuantLinear)  # type: ignore[index]


def test_in_place_changes_the_model_itself() -> None:
    model = mlp()
    weight = model[0].weight
    assert quantize(model, INT4, inplace=True) is model
    assert isinstance(model[0], QuantLinear)
    assert model[0].weight is weight


def test_a_rule_that_fails_changes_nothing_in_place() -> None:
    model = mlp()
    for rules, error in (
        ({"0": "core/int", "2": "core/itn"}, UnknownNameError),
        ({"0": "core/int", "2": "core/int(bit=4)"}, ConfigError),
        ({"0": "core/int", "nope": "core/int"}, PatternError),
        ({"0": "core/int", "2": {"input": "core/int(dynamic=False)"}}, ConfigError),
    ):
        with pytest.raises(error):
            quantize(model, rules, inplace=True)
        assert isinstance(model[0], nn.Linear)


def test_a_model_that_is_one_layer_is_replaced_and_keeps_its_architecture() -> None:
    assert isinstance(quantize(nn.Linear(3, 2), INT4), QuantLinear)
    assert isinstance(quantize(nn.Conv2d(3, 2, 1), INT4), QuantConv2d)
    model = build_model("core/mlp", {"in_features": 4, "out_features": 2})
    assert architecture_of(quantize(model, INT4)) == architecture_of(model)
    lone = nn.Linear(3, 2)
    lone.architecture = architecture_of(model)  # type: ignore[assignment]
    assert architecture_of(quantize(lone, INT4)) == architecture_of(model)
    assert architecture_of(qcore.pack(quantize(lone, INT4))) == architecture_of(model)


def test_quantizing_twice_is_refused_where_no_float_layer_is_left() -> None:
    made = quantize(mlp(), {"0": "core/int(bits=4)"})
    both = quantize(made, {"*": "core/int(bits=8)"})
    assert [both[i].weight_quantizer.config.bits for i in (0, 2)] == [4, 8]  # type: ignore[index]
    with pytest.raises(PatternError, match="quantized already"):
        quantize(both, INT4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("rule", ["core/int(bits=4)", {"input": TOKEN}], ids=["weight", "input only"])
def test_a_weight_that_is_not_finite_is_refused_before_any_training(bad: float, rule: Any) -> None:
    model = mlp()
    model[2].weight.data[1, 1] = bad
    with pytest.raises(QuantizationError, match=r"2\.weight holds 1 values"):
        quantize(model, {"*": rule})


def test_errors_name_the_tensor_of_each_layer() -> None:
    made: Any = quantize(mlp(), INT4)
    assert made[2].input_quantizer.tensor_name == "2.input"
    assert made[2].weight_quantizer.tensor_name == "2.weight"
    lone: Any = quantize(nn.Linear(2, 2), INT4)
    assert lone.input_quantizer.tensor_name == "input"


def test_each_layer_gets_a_quantizer_of_its_own() -> None:
    given = make_quantizer(STATIC)
    made: Any = quantize(mlp(), {"*": {"weight": "core/int", "input": given}})
    quantizers = [made[0].input_quantizer, made[2].input_quantizer]
    assert quantizers[0] is not quantizers[1]
    assert given not in quantizers


def test_a_layer_in_two_places_stays_one_layer() -> None:
    model = Twice()
    made: Any = quantize(model, INT4)
    assert isinstance(made.a, QuantLinear)
    assert made.a is made.b
    assert isinstance(model.a, nn.Linear)
    packed: Any = qcore.pack(made)
    assert packed.a is packed.b
    assert torch.equal(packed(normal(3, 4)), made.eval()(normal(3, 4)))


def test_tied_weights_stay_tied() -> None:
    made: Any = quantize(Tied(), INT4)
    assert made.first.weight is made.second.weight
    made.train()(normal(3, 4)).sum().backward()
    assert torch.equal(qcore.pack(made)(normal(3, 4)), made.eval()(normal(3, 4)))


def test_the_mode_of_the_model_stays() -> None:
    assert quantize(mlp().train(), INT4)[0].training  # type: ignore[index]
    assert not quantize(mlp().eval(), INT4)[0].training  # type: ignore[index]


def test_the_gradient_flows_through_a_whole_network() -> None:
    model = quantize(filled(build_model("core/mlp", {"in_features": 6, "out_features": 3})), INT4).train()
    model(normal(8, 6)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_torchs_transformer_does_not_read_the_float_weights_behind_our_back() -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    encoder = filled(nn.TransformerEncoder(layer, 2)).eval()
    made = quantize(encoder, {"*.linear?": {"weight": "core/int(bits=2)", "input": TOKEN}}).eval()
    x, absent = normal(2, 5, 16), torch.zeros(2, 5, dtype=torch.bool)
    absent[0, 3:] = True
    packed = qcore.pack(made)
    with torch.no_grad():
        for options in ({}, {"src_key_padding_mask": absent}):
            assert not torch.allclose(made(x, **options), encoder(x, **options), atol=1e-3)
            assert torch.equal(packed(x, **options), made(x, **options))
    assert torch.allclose(made(x), packed(x), atol=1e-5)


def test_a_static_range_holds_all_that_was_seen() -> None:
    model: Any = quantize(mlp(), {"*": {"weight": "core/int", "input": STATIC}})
    batches = [normal(10, 6, seed=seed) for seed in range(3)]
    assert calibrate(model, batches) is model
    largest = torch.cat(batches).abs().max()
    assert model[0].input_quantizer.high.item() == largest
    assert not model[2].input_quantizer.needs_calibration
    hidden = torch.relu(torch.cat(batches) @ model[0].fake_weight().T + model[0].bias)
    assert model[2].input_quantizer.high.item() == pytest.approx(hidden.abs().max().item(), rel=1e-5)


def test_long_calibration_keeps_memory_bounded_and_the_extremes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_module, "CALIBRATION_ELEMENTS", 60)
    model: Any = quantize(
        nn.Linear(6, 2), {"*": {"weight": "core/int", "input": STATIC.replace("int(", "int(symmetric=False, ")}}
    )
    batches = [normal(10, 6, seed=seed) for seed in range(30)]
    batches[7][3, 2], batches[8][9, 5] = 50.0, -40.0
    recorders: list[Any] = []
    original = convert_module._Recorder

    class Spy(original):  # type: ignore[misc, valid-type]
        def __init__(self, is_image: bool) -> None:
            super().__init__(is_image)
            recorders.append(self)

    monkeypatch.setattr(convert_module, "_Recorder", Spy)
    calibrate(model, batches)
    assert (model.input_quantizer.low.item(), model.input_quantizer.high.item()) == (-40, 50)
    assert recorders[0].inputs().numel() <= 60 + 2 * 6


def test_it_runs_in_eval_mode_and_restores_every_mode() -> None:
    model: Any = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), qcore.nn.Dropout(0.5), nn.Linear(5, 3).eval())
    model = quantize(model, {"*": {"weight": "core/int", "input": STATIC}}).train()
    model[3].eval()
    mean = model[1].running_mean.clone()
    calibrate(model, [normal(4, 6)])
    assert torch.equal(model[1].running_mean, mean)
    assert model.training
    assert model[2].training
    assert not model[3].training


def test_convolutions_are_calibrated_over_all_samples() -> None:
    model: Any = quantize(nn.Conv2d(2, 3, 3), {"*": {"weight": "core/int", "input": STATIC}})
    images = normal(4, 2, 6, 6)
    calibrate(model, [images[:2], images[2:], images[0]])
    assert model.input_quantizer.high.item() == images.abs().max()


def test_dynamic_models_need_nothing() -> None:
    model = quantize(mlp(), INT4)
    assert calibrate(model, []) is model


def test_no_batch_is_an_error() -> None:
    with pytest.raises(DataError, match="no batch"):
        calibrate(quantize(mlp(), {"*": {"weight": "core/int", "input": STATIC}}), [])


def test_a_layer_that_no_sample_reaches_is_named_and_nothing_is_set() -> None:
    class First(Router):
        def forward(self, x: torch.Tensor) -> Routing:
            weights = torch.zeros(len(x), 2).index_fill_(1, torch.tensor([0]), 1.0)
            return Routing(weights, weights)

    model: Any = MixtureOfExperts([nn.Linear(6, 2), nn.Linear(6, 2)], First(RouterConfig(in_features=6, experts=2)))
    made: Any = quantize(model, {"*": {"weight": "core/int", "input": STATIC}})
    with pytest.raises(DataError, match=r"experts\.1"):
        calibrate(made, [normal(5, 6)])
    assert made.experts[0].input_quantizer.needs_calibration


def test_a_model_that_fails_gets_its_quantizers_back() -> None:
    model: Any = quantize(mlp(), {"*": {"weight": "core/int", "input": STATIC}}).train()
    with pytest.raises(RuntimeError):
        calibrate(model, [normal(5, 7)])
    assert model[0].input_quantizer is not None
    assert model.training
    assert not model[0]._forward_pre_hooks


def test_calibrating_again_finds_the_ranges_anew() -> None:
    model: Any = quantize(nn.Linear(6, 2), {"*": {"weight": "core/int", "input": STATIC}})
    calibrate(model, [normal(5, 6) * 100])
    calibrate(model, [normal(5, 6)])
    assert model.input_quantizer.high.item() == normal(5, 6).abs().max()


def test_data_that_are_not_finite_are_refused_by_the_layers_name() -> None:
    model = quantize(mlp(), {"*": {"weight": "core/int", "input": STATIC}})
    with pytest.raises(QuantizationError, match=r"0\.input"):
        calibrate(model, [torch.full((2, 6), float("nan"))])
