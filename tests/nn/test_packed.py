"""Packed layers: stored bits that keep their numbers, whatever is done to the module around them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from qcore.nn import PackedConv2d, calibrate, pack, quantize
from qcore.tensor import QTensor

TOKEN = "core/int(granularity='token')"
STATIC = "core/int(granularity='tensor', dynamic=False)"
INT4 = {"*": {"weight": "core/int(bits=4)", "input": TOKEN}}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(model: nn.Module, seed: int = 1) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


def mlp() -> Any:
    return filled(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)))


@pytest.fixture(params=["core/reference", "auto"], autouse=True)
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Pack on the reference, and on the best backend that is installed."""
    monkeypatch.setenv("QCORE_BACKEND", request.param)
    return str(request.param)


def test_a_packed_layer_is_as_small_as_its_bits() -> None:
    layer: Any = pack(quantize(nn.Linear(1536, 640), INT4))
    assert isinstance(layer.weight, QTensor)
    assert layer.weight.nbytes == 1536 * 640 // 2 + 4 * 640
    assert sum(buffer.numel() * buffer.element_size() for buffer in layer.buffers()) == layer.weight.nbytes + 4 * 640
    assert not list(layer.parameters())
    assert "4.02 bits a weight" in repr(layer)


def test_a_packed_model_stays_in_eval_mode() -> None:
    packed: Any = pack(quantize(mlp(), INT4))
    assert not packed.train()[0].training


@pytest.mark.parametrize(
    "convert", [lambda m: m.double(), lambda m: m.half(), lambda m: m.bfloat16(), lambda m: m.to("cpu")]
)
@pytest.mark.parametrize("rule", [INT4["*"], {"weight": "core/int(bits=4)", "input": STATIC}, "core/int(bits=4)"])
def test_no_dtype_that_a_packed_layer_is_asked_for_changes_its_numbers(
    convert: Callable[[nn.Module], nn.Module], rule: Any
) -> None:
    layer = filled(nn.Linear(12, 5))
    packed = pack(calibrate(quantize(layer, {"*": rule}), [normal(8, 12)]))
    x = normal(4, 12)
    before = packed(x)
    converted: Any = convert(packed)
    assert converted.weight.scale.dtype == torch.float32
    assert torch.equal(converted(x), before)


def test_a_packed_model_moves_to_another_device() -> None:
    packed: Any = pack(quantize(mlp(), INT4)).to("meta")
    assert packed[0].weight.scale.is_meta
    assert packed(torch.empty(5, 12, device="meta")).shape == (5, 3)


def test_a_copy_shares_nothing_with_the_original() -> None:
    packed: Any = pack(quantize(mlp(), INT4))
    packed[0].note = "kept"
    copied: Any = copy.deepcopy(packed)
    x = normal(4, 12)
    expected = packed(x)
    assert copied[0].note == "kept"
    assert torch.equal(copied(x), expected)
    copied[0].load_state_dict(pack(quantize(filled(mlp(), 7), INT4))[0].state_dict())  # type: ignore[index]
    assert not torch.equal(copied(x), expected)
    assert torch.equal(packed(x), expected)


def test_loading_a_state_dict_changes_what_the_kernel_computes() -> None:
    rules = {"*": {"weight": "core/int(bits=4)", "input": STATIC}}
    one, other = (calibrate(quantize(filled(mlp(), seed), rules), [normal(8, 12) * (seed + 1)]) for seed in range(2))
    packed = pack(one)
    x = normal(4, 12)
    packed.load_state_dict(pack(other).state_dict())
    assert torch.equal(packed(x), other.eval()(x))


def test_an_input_that_no_scheme_describes_stays_coded_through_copies_moves_and_loads() -> None:
    rules = {"*": {"weight": "core/int(bits=4)", "input": "core/int(bits=1, granularity='token')"}}
    model = quantize(mlp(), rules)
    x = normal(4, 12)
    expected = model.eval()(x)
    packed: Any = pack(model)
    assert packed[0].request().coded_input
    loaded = pack(quantize(filled(mlp(), 7), rules))
    loaded.load_state_dict(packed.state_dict())
    for made in (packed, copy.deepcopy(packed), copy.deepcopy(packed).to("cpu"), loaded):
        assert torch.equal(made(x), expected)


def test_outputs_of_a_packed_model_have_no_gradient_but_float_layers_around_it_do() -> None:
    model = pack(quantize(mlp(), {"0": None, "2": "core/int(bits=4)"}))
    model(normal(4, 12)).sum().backward()
    assert model[0].weight.grad is not None  # type: ignore[index, union-attr]


def test_a_packed_convolution_knows_how_it_walks() -> None:
    packed: Any = pack(quantize(nn.Conv2d(4, 4, 3, stride=2, padding=1, padding_mode="circular", groups=2), INT4))
    assert isinstance(packed, PackedConv2d)
    assert packed.describe()["conv"] == {
        "stride": [2, 2],
        "padding": [0, 0],
        "dilation": [1, 1],
        "groups": 2,
        "padding_mode": "circular",
        "reversed_padding": [1, 1, 1, 1],
    }


def test_a_row_of_a_packed_layer_that_is_not_finite_shows_and_spoils_no_other() -> None:
    packed = pack(quantize(mlp(), INT4))
    x = normal(3, 12)
    clean = packed(x)
    x[1, 4] = float("nan")
    y = packed(x)
    assert torch.isnan(y[1]).all()
    assert torch.equal(y[[0, 2]], clean[[0, 2]])
