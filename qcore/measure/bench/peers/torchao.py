"""torchao, in eager mode: int8 weights a row with activations quantized at each call, or float activations."""

from __future__ import annotations

import copy
import importlib
from typing import Any, cast

from torch import Tensor, nn

from qcore.measure.bench.contenders import Contender
from qcore.measure.bench.peers.blocks import BLOCK, TOLERANCES
from qcore.measure.bench.peers.torch_int8 import int8_nbytes
from qcore.measure.bench.timing import Call

__all__ = ["dynamic_int8", "eight_bit", "four_bit"]


def dynamic_int8(module: nn.Module, x: Tensor, threads: int) -> Contender:
    """Return ``module`` as ``quantize_(module, Int8DynamicActivationInt8WeightConfig())`` leaves it."""
    return _quantized(module, x, "Int8DynamicActivationInt8WeightConfig", int8_nbytes(module))


def eight_bit(module: nn.Module, x: Tensor, threads: int) -> Contender:
    """Return a layer with ``Int8WeightOnlyConfig()``."""
    return _quantized(module, x, "Int8WeightOnlyConfig", int8_nbytes(module))


def four_bit(module: nn.Module, x: Tensor, threads: int) -> Contender:
    """Return a layer with ``Int4WeightOnlyConfig``, a scale and a zero point a group of 128 columns."""
    layer = cast(nn.Linear, module)
    nbytes = layer.weight.numel() // 2 + 4 * layer.out_features * -(-layer.in_features // BLOCK)
    options = {"group_size": BLOCK, "int4_packing_format": "tile_packed_to_4d"}
    return _quantized(module, x, "Int4WeightOnlyConfig", nbytes, TOLERANCES[4], **options)


def _quantized(
    module: nn.Module, x: Tensor, config: str, nbytes: int, tolerance: float | None = None, **options: Any
) -> Contender:
    quantization: Any = importlib.import_module("torchao.quantization")

    def again() -> Call:
        model = nn.Sequential(copy.deepcopy(module))
        quantization.quantize_(model, getattr(quantization, config)(**options))
        layer = model[0]
        return lambda: layer(x)

    return Contender(kind="peer", call=again(), again=again, weight_nbytes=nbytes, tolerance=tolerance)
