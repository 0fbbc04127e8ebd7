"""torchao: int8 weights a row, activations quantized at each call, in eager mode."""

from __future__ import annotations

import copy
import importlib
from typing import Any

from torch import Tensor, nn

from qcore.measure.bench.contenders import Contender
from qcore.measure.bench.peers.torch_int8 import int8_nbytes
from qcore.measure.bench.timing import Call

__all__ = ["dynamic_int8"]


def dynamic_int8(module: nn.Module, x: Tensor, threads: int) -> Contender:
    """Return ``module`` as ``quantize_(module, Int8DynamicActivationInt8WeightConfig())`` leaves it."""
    quantization: Any = importlib.import_module("torchao.quantization")

    def again() -> Call:
        model = nn.Sequential(copy.deepcopy(module))
        quantization.quantize_(model, quantization.Int8DynamicActivationInt8WeightConfig())
        layer = model[0]
        return lambda: layer(x)

    return Contender(kind="peer", call=again(), again=again, weight_nbytes=int8_nbytes(module))
