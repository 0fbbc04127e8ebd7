"""Adapters to libraries that need a GPU, with stand-ins that compute in plain torch on what the adapters hand over."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qcore.measure.bench.contenders import Contender, deviation
from qcore.measure.bench.peers import bitsandbytes, gemlite, torchao
from qcore.nn.init import linear


@pytest.fixture
def layer() -> nn.Linear:
    return linear(256, 24, torch.Generator().manual_seed(0)).eval().requires_grad_(False)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 256, generator=torch.Generator().manual_seed(1))


def check(made: Contender, layer: nn.Linear, x: Tensor, least: int, most: int) -> None:
    expected = layer(x) if made.expected is None else made.expected
    assert deviation(made.read(made.call()), expected) < 1e-2
    assert deviation(made.read(made.again()()), expected) < 1e-2
    assert least <= made.weight_nbytes <= most


class GemLiteLinear:
    def __init__(self, bits: int, group: int, cols: int, rows: int, *, input_dtype: str, output_dtype: str) -> None:
        assert input_dtype == output_dtype == "FP16"
        self.bits, self.group, self.shape = bits, group, (rows, cols)

    def pack(self, codes: Tensor, scales: Tensor, zero: int, bias: Tensor) -> None:
        assert codes.dtype is torch.uint8 and codes.shape == self.shape and int(codes.max()) < 1 << self.bits
        values = (codes.float() - zero).reshape(self.shape[0], -1, self.group) * scales.float().unsqueeze(2)
        self.weight, self.bias = values.reshape(self.shape), bias

    def __call__(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


@pytest.mark.parametrize(("build", "bits"), [(gemlite.four_bit, 4), (gemlite.two_bit, 2)])
def test_gemlite_gets_codes_scales_and_zero(
    build: Any, bits: int, layer: nn.Linear, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = SimpleNamespace(GemLiteLinear=GemLiteLinear, DType=SimpleNamespace(BF16="BF16", FP16="FP16"))
    monkeypatch.setitem(sys.modules, "gemlite", library)  # type: ignore[arg-type]
    nbytes = 24 * 256 * bits // 8
    check(build(layer, x, 1), layer, x, nbytes + 24 * 2 * 4, nbytes + 24 * 2 * 4)
    with pytest.raises(ValueError, match="multiple of 128"):
        build(linear(100, 24, torch.Generator()), x[:, :100], 1)


def test_gemlite_s_int8_comes_from_the_layer_which_stays(
    layer: nn.Linear, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Helper:
        def __init__(self, *, device: str, dtype: torch.dtype) -> None:
            assert (device, dtype) == ("cpu", torch.float32)

        def from_linear(self, given: nn.Linear, *, del_orig: bool) -> nn.Linear:
            assert not del_orig
            return given

    monkeypatch.setitem(sys.modules, "gemlite", ModuleType("gemlite"))
    monkeypatch.setitem(sys.modules, "gemlite.helper", SimpleNamespace(A8W8_INT8_dynamic=Helper))  # type: ignore[arg-type]
    check(gemlite.dynamic_int8(layer, x, 1), layer, x, 24 * 256, 24 * 256)


@pytest.mark.parametrize(("build", "name", "least"), [
    (bitsandbytes.eight_bit, "Linear8bitLt", 24 * 256), (bitsandbytes.four_bit, "Linear4bit", 24 * 128),
])  # fmt: skip
def test_bitsandbytes_loads_the_layer_s_numbers(
    build: Any, name: str, least: int, layer: nn.Linear, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    class Layer(nn.Linear):
        def __init__(self, cols: int, rows: int, *, bias: bool, **options: Any) -> None:
            super().__init__(cols, rows, bias)
            seen.append(options)

    library = SimpleNamespace(nn=SimpleNamespace(**{name: Layer}))
    monkeypatch.setitem(sys.modules, "bitsandbytes", library)  # type: ignore[arg-type]
    with torch.no_grad():
        check(build(layer, x, 1), layer, x, least, least * 5 // 4)
    assert seen[0].get("compute_dtype", x.dtype) is x.dtype


@pytest.mark.parametrize(("build", "config", "options"), [
    (torchao.dynamic_int8, "Int8DynamicActivationInt8WeightConfig", {}),
    (torchao.eight_bit, "Int8WeightOnlyConfig", {}),
    (torchao.four_bit, "Int4WeightOnlyConfig", {"group_size": 128, "int4_packing_format": "tile_packed_to_4d"}),
])  # fmt: skip
def test_torchao_quantizes_a_copy(
    build: Any, config: str, options: dict[str, Any], layer: nn.Linear, x: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []

    def quantize(model: nn.Module, found: dict[str, Any]) -> None:
        assert model[0] is not layer  # type: ignore[index]
        seen.append(found)

    library = SimpleNamespace(quantize_=quantize, **{config: lambda **given: given})
    monkeypatch.setitem(sys.modules, "torchao", ModuleType("torchao"))
    monkeypatch.setitem(sys.modules, "torchao.quantization", library)  # type: ignore[arg-type]
    check(build(layer, x, 1), layer, x, 24 * 128, 24 * 257)
    assert seen == [options] * 2
