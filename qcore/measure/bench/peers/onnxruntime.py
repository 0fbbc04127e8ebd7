"""onnxruntime: dynamic int8 as its own tool writes it, and MatMulNBits with activations as int8."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from qcore.measure.bench.contenders import Contender
from qcore.measure.bench.peers.blocks import BLOCK, round_to_blocks
from qcore.measure.bench.timing import Call

__all__ = ["dynamic_int8", "four_bit", "two_bit"]

Array = NDArray[Any]


def dynamic_int8(module: nn.Module, x: Tensor, threads: int) -> Contender:
    """Return DynamicQuantizeLinear and MatMulInteger: one scale a tensor on both sides."""
    helper: Any = importlib.import_module("onnx.helper")
    weight, bias = _arrays(module)
    scale = np.float32(np.abs(weight).max() / 127)
    codes = np.round(weight / scale).astype(np.int8)
    constants = {"w": np.ascontiguousarray(codes.T), "s": scale, "z": np.int8(0), "b": bias}
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["codes", "x_scale", "x_zero"]),
        helper.make_node("MatMulInteger", ["codes", "w", "x_zero", "z"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["floats"], to=helper.TensorProto.FLOAT),
        helper.make_node("Mul", ["x_scale", "s"], ["scale"]),
        helper.make_node("Mul", ["floats", "scale"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["y"]),
    ]
    return _contender(nodes, constants, x, len(bias), threads, codes.nbytes)


def four_bit(module: nn.Module, x: Tensor, threads: int) -> Contender:
    """Return MatMulNBits with 4-bit weights and ``accuracy_level=4``: activations become int8 on the way."""
    return _blocks(module, x, threads, 4)


def two_bit(module: nn.Module, x: Tensor, threads: int) -> Contender:
    """Return the same with 2-bit weights."""
    return _blocks(module, x, threads, 2)


def _blocks(module: nn.Module, x: Tensor, threads: int, bits: int) -> Contender:
    helper: Any = importlib.import_module("onnx.helper")
    weight, bias = _arrays(module)
    rounded = round_to_blocks(weight, bits)
    options = {"K": weight.shape[1], "N": weight.shape[0], "bits": bits, "block_size": BLOCK, "accuracy_level": 4}
    inputs = ["x", "w", "s", "", "", "b"]
    node = helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", **options)
    constants = {"w": rounded.packed(), "s": rounded.scales, "b": bias}
    expected = x @ torch.from_numpy(rounded.values).t() + torch.from_numpy(bias)
    return _contender([node], constants, x, len(bias), threads, rounded.nbytes, expected)


def _contender(
    nodes: Sequence[Any],
    constants: dict[str, Any],
    x: Tensor,
    rows: int,
    threads: int,
    nbytes: int,
    expected: Tensor | None = None,
) -> Contender:
    model = _model(nodes, constants, x.shape[1], rows)
    y = np.empty((len(x), rows), np.float32)

    def again() -> Call:
        session = _session(model, threads)
        binding = session.io_binding()  # no copies of input and output
        binding.bind_cpu_input("x", x.numpy())
        binding.bind_output("y", "cpu", 0, np.float32, y.shape, y.ctypes.data)
        return lambda: session.run_with_iobinding(binding)

    return Contender(
        kind="peer",
        call=again(),
        again=again,
        weight_nbytes=nbytes,
        expected=expected,
        read=lambda _: torch.from_numpy(y),
    )


def _model(nodes: Sequence[Any], constants: dict[str, Any], cols: int, rows: int) -> bytes:
    helper: Any = importlib.import_module("onnx.helper")
    numpy_helper: Any = importlib.import_module("onnx.numpy_helper")
    real = helper.TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info("x", real, ["batch", cols])]
    outputs = [helper.make_tensor_value_info("y", real, ["batch", rows])]
    held = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "layer", inputs, outputs, held)
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return cast(bytes, helper.make_model(graph, opset_imports=versions, ir_version=10).SerializeToString())


def _session(model: bytes, threads: int) -> Any:
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _arrays(module: nn.Module) -> tuple[Array, Array]:
    layer = cast(nn.Linear, module)
    return layer.weight.detach().numpy(), layer.bias.detach().numpy()
