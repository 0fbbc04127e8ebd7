"""OpenVINO: compressed weights, with activations quantized in groups of columns at each call."""

from __future__ import annotations

import importlib
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qcore.measure.bench.contenders import Contender
from qcore.measure.bench.peers.blocks import BLOCK, round_to_blocks
from qcore.measure.bench.timing import Call

__all__ = ["eight_bit", "four_bit"]

_INPUT_GROUP = {8: 256, 4: BLOCK}
"""Columns of activations that share a scale, by bits of the weight: what OpenVINO ran fastest with."""


def eight_bit(module: nn.Module, x: Tensor, threads: int) -> Contender:
    """Return a layer of int8 weights, a scale a row."""
    layer = cast(nn.Linear, module)
    weight = layer.weight.detach().numpy()
    scales = np.maximum(np.abs(weight).max(axis=1, keepdims=True) / 127, 2.0**-100).astype(np.float32)
    codes = np.round(weight / scales).astype(np.int8)
    ops: Any = importlib.import_module("openvino.opset13")
    values = ops.multiply(ops.convert(ops.constant(codes), np.float32), ops.constant(scales))
    return _contender(values, layer, x, threads, 8, codes.nbytes + scales.nbytes)


def four_bit(module: nn.Module, x: Tensor, threads: int) -> Contender:
    """Return a layer of 4-bit weights with zero point 8, a scale a group of 128 columns."""
    layer = cast(nn.Linear, module)
    if layer.in_features % BLOCK:
        raise ValueError(f"{layer.in_features} columns are no multiple of {BLOCK}")
    rounded = round_to_blocks(layer.weight.detach().numpy(), 4)
    library: Any = importlib.import_module("openvino")
    ops: Any = importlib.import_module("openvino.opset13")

    def constant(data: NDArray[np.uint8], shape: tuple[int, ...]) -> Any:
        tensor = library.Tensor(data.reshape(-1), library.Shape(list(shape)), library.Type.u4)
        return library.op.Constant(tensor, shared_memory=False)  # its own copy: ours does not outlive this function

    codes = ops.convert(constant(rounded.packed(), rounded.codes.shape), np.float32)
    zero = ops.convert(constant(np.full(1, 8, np.uint8), (1, 1, 1)), np.float32)
    values = ops.multiply(ops.subtract(codes, zero), ops.constant(rounded.scales[..., None]))
    flat = ops.reshape(values, np.array(layer.weight.shape), False)
    expected = x @ torch.from_numpy(rounded.values).t() + layer.bias
    return _contender(flat, layer, x, threads, 4, rounded.nbytes, expected)


def _contender(
    weight: Any, layer: nn.Linear, x: Tensor, threads: int, bits: int, nbytes: int, expected: Tensor | None = None
) -> Contender:
    library: Any = importlib.import_module("openvino")
    ops: Any = importlib.import_module("openvino.opset13")
    given = ops.parameter(list(x.shape), np.float32)
    product = ops.add(ops.matmul(given, weight, False, True), ops.constant(layer.bias.detach().numpy()[None]))
    model = library.Model([product], [given], "layer")
    config = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": _INPUT_GROUP[bits],
    }
    core = library.Core()

    def request() -> Any:
        made = core.compile_model(model, "CPU", config).create_infer_request()
        made.set_input_tensor(library.Tensor(x.numpy(), shared_memory=True))
        return made

    def call_of(made: Any) -> Call:
        return lambda: made.infer(share_outputs=True)

    first = request()
    return Contender(
        kind="peer",
        call=call_of(first),
        again=lambda: call_of(request()),
        weight_nbytes=nbytes,
        expected=expected,
        read=lambda _: torch.tensor(first.get_output_tensor().data),
    )
