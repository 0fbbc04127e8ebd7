"""Quantized layers: fake-quantized floats in training, the one arithmetic in eval mode."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from qcore.errors import ConfigError, QuantizationError
from qcore.nn import QuantConv2d, QuantLinear
from qcore.nn.layers import make_layer
from qcore.quantizers import Quantizer, make_quantizer
from qcore.tensor import Encoded

TOKEN = "core/int(bits=8, granularity='token')"


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(layer: nn.Module, seed: int = 1) -> Any:
    """Return ``layer`` with weights from a generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in layer.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return layer


def quantized(layer: nn.Module, weight: str | None = "core/int(bits=4)", input: str | None = TOKEN) -> Any:
    made = [None if name is None else make_quantizer(name) for name in (weight, input)]
    return make_layer(filled(layer), *made)


def test_training_passes_floats_through_the_quantizers() -> None:
    layer = quantized(nn.Linear(12, 5)).train()
    x = normal(7, 12)
    expected = F.linear(layer.input_quantizer(x), layer.weight_quantizer(layer.weight), layer.bias)
    assert torch.equal(layer(x), expected)


def test_the_gradient_reaches_weight_bias_and_input() -> None:
    layer = quantized(nn.Linear(12, 5)).train()
    x, upstream = normal(7, 12).requires_grad_(), normal(7, 5, seed=2)
    layer(x).backward(upstream)
    coded_x, coded_w = layer.input_quantizer(x).detach(), layer.weight_quantizer(layer.weight).detach()
    assert torch.allclose(layer.weight.grad, upstream.T @ coded_x, atol=1e-5)
    assert torch.allclose(layer.bias.grad, upstream.sum(dim=0), atol=1e-5)
    assert x.grad is not None
    assert torch.allclose(x.grad, upstream @ coded_w, atol=1e-5)


def test_a_convolution_trains_too() -> None:
    layer = quantized(nn.Conv2d(3, 4, 3, padding=1)).train()
    x = normal(2, 3, 8, 8).requires_grad_()
    layer(x).square().sum().backward()
    for tensor in (x, layer.weight, layer.bias):
        assert tensor.grad is not None
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0


WEIGHTS = ["core/int(bits=8)", "core/int(bits=2)", "core/int(bits=1)", "core/int(bits=3, symmetric=False)"]
INPUTS = [TOKEN, "core/int(bits=8, granularity='token', symmetric=False)", "core/int(bits=4, granularity='tensor')"]
GROUPED = "core/int(bits=4, granularity='group', group_size=5)"


@pytest.mark.parametrize("weight", [*WEIGHTS, GROUPED])
@pytest.mark.parametrize("inputs", [*INPUTS, None])
@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Linear(40, 6), (9, 40)), (nn.Conv2d(4, 6, 3, padding=1, groups=2), (3, 4, 7, 7))],
    ids=["linear", "conv"],
)
def test_train_and_eval_agree_to_float_rounding(
    weight: str, inputs: str | None, layer: nn.Module, shape: tuple[int, ...]
) -> None:
    made = quantized(copy.deepcopy(layer), weight, inputs)
    x = normal(*shape)
    trained, evaluated = made.train()(x), made.eval()(x)
    assert trained.abs().max() > 0.1
    assert torch.allclose(trained, evaluated, rtol=1e-5, atol=1e-5 * trained.abs().max().item())


def test_weight_only_and_input_only_layers_work_in_both_modes() -> None:
    x = normal(3, 12)
    weight_only = quantized(nn.Linear(12, 5), input=None)
    expected = F.linear(x, weight_only.weight_quantizer(weight_only.weight), weight_only.bias)
    assert torch.equal(weight_only.train()(x), expected)
    assert torch.equal(weight_only.eval()(x), expected)
    input_only = quantized(nn.Linear(12, 5), weight=None)
    expected = F.linear(input_only.input_quantizer(x), input_only.weight, input_only.bias)
    assert torch.equal(input_only.train()(x), expected)
    assert torch.equal(input_only.eval()(x), expected)


@given(
    shape=st.lists(st.integers(0, 4), max_size=3),
    inputs=st.sampled_from([*INPUTS, "core/int(bits=8)"]),
    features=st.integers(0, 9),
    bias=st.booleans(),
)
def test_leading_axes_only_multiply_the_tokens(shape: list[int], inputs: str, features: int, bias: bool) -> None:
    layer = QuantLinear(nn.Linear(max(features, 1), 5, bias=bias), make_quantizer("core/int"), make_quantizer(inputs))
    if features == 0:
        layer.weight = nn.Parameter(torch.zeros(5, 0))
    x = normal(*shape, features)
    flat = x.reshape(int(torch.tensor(shape).prod()) if shape else 1, features)
    for mode in (True, False):
        layer.train(mode)
        assert torch.equal(layer(x), layer(flat).reshape(*shape, 5))


def test_one_image_alone_equals_a_batch_of_it() -> None:
    layer = quantized(nn.Conv2d(3, 4, 3))
    image = normal(3, 8, 8)
    for mode in (True, False):
        layer.train(mode)
        assert torch.equal(layer(image), layer(image[None])[0])


def test_an_empty_batch_of_images_has_the_right_shape() -> None:
    layer = quantized(nn.Conv2d(3, 4, 3)).eval()
    assert layer(torch.zeros(0, 3, 8, 8)).shape == (0, 4, 6, 6)


@pytest.mark.parametrize(
    "options",
    [
        {"stride": 2, "padding": 1},
        {"dilation": 2, "padding": (2, 1)},
        {"groups": 4},
        {"padding": 1, "padding_mode": "reflect"},
        {"padding": (2, 1), "padding_mode": "circular"},
        {"padding": 2, "padding_mode": "replicate", "stride": (2, 1)},
        {"padding": "same"},
        {"padding": "valid"},
        {"padding": "same", "padding_mode": "reflect", "dilation": 2},
        {"bias": False},
    ],
    ids=str,
)
def test_a_convolution_walks_as_torchs_own_does(options: dict[str, Any]) -> None:
    conv = filled(nn.Conv2d(4, 8, 3, **options))
    layer = QuantConv2d(copy.deepcopy(conv), make_quantizer("core/int"), None)
    conv.weight.data = layer.fake_weight().detach()
    x = normal(2, 4, 9, 9)
    for mode in (True, False):
        assert torch.equal(layer.train(mode)(x), conv(x))


def test_padding_that_is_wider_on_one_side_is_refused() -> None:
    with pytest.raises(ConfigError, match="one side"):
        quantized(nn.Conv2d(3, 4, 2, padding="same"))


def test_the_parameters_and_the_mode_stay_those_of_the_layer() -> None:
    linear = nn.Linear(4, 2).eval()
    layer = QuantLinear(linear, make_quantizer("core/int"), None)
    assert layer.weight is linear.weight
    assert layer.bias is linear.bias
    assert not layer.training
    assert list(dict(layer.named_parameters())) == ["weight", "bias"]


def test_a_layer_without_any_quantizer_is_refused() -> None:
    with pytest.raises(ConfigError, match="weight, its input, or both"):
        QuantLinear(nn.Linear(3, 3), None, None)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_computed_weight_is_refused_and_not_frozen_in_silence() -> None:
    with pytest.raises(ConfigError, match="weight_norm"):
        quantized(nn.utils.weight_norm(nn.Linear(3, 3)))


@pytest.mark.parametrize(
    "inputs", ["core/int(granularity='group', group_size=4)", "core/int(dynamic=False)"], ids=["group", "static row"]
)
def test_an_input_quantizer_that_cannot_work_is_refused_at_once(inputs: str) -> None:
    with pytest.raises(ConfigError, match="granularity='token'"):
        quantized(nn.Linear(8, 3), input=inputs)


class TwoScales(Quantizer):
    """A stranger's quantizer whose scales no layer's input can have."""

    def encode(self, x: torch.Tensor) -> Encoded:
        return Encoded(x.detach().float().round(), torch.ones(2, 1), x.shape, x.dtype, "int", 8)

    def bits(self) -> torch.Tensor:
        return torch.tensor(8.0)


def test_input_scales_that_fit_no_token_are_refused_in_eval_mode() -> None:
    layer = make_layer(nn.Linear(8, 3), make_quantizer("core/int"), TwoScales()).eval()
    with pytest.raises(ConfigError, match=r"scales \(2, 1\)"):
        layer(normal(5, 8))


@pytest.mark.parametrize("training", [True, False])
def test_an_input_that_is_not_finite_is_refused_by_the_name_of_its_layer(training: bool) -> None:
    layer = quantized(nn.Linear(4, 2)).train(training)
    layer.input_quantizer.tensor_name = "head.input"
    with pytest.raises(QuantizationError, match=r"head\.input"):
        layer(torch.tensor([[1.0, float("nan"), 0.0, 0.0]]))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_output_has_the_dtype_of_the_input(dtype: torch.dtype) -> None:
    for layer, x in ((nn.Linear(6, 3), normal(4, 6)), (nn.Conv2d(2, 3, 3), normal(2, 2, 5, 5))):
        made = quantized(layer).to(dtype)
        assert made.train()(x.to(dtype)).dtype == dtype
        assert made.eval()(x.to(dtype)).dtype == dtype


def test_layers_say_their_shape() -> None:
    assert "12, 5" in repr(quantized(nn.Linear(12, 5)))
    assert "(4, 3, 3, 3)" in repr(quantized(nn.Conv2d(3, 4, 3)))
