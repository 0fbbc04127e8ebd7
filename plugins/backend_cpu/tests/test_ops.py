from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

import qcore
from qcore.errors import UsageError
from qcore.tensor import Encoded, QTensor
from qcore.tensor.arithmetic import Conv2dShape
from qcore_backend_cpu.conv2d import conv2d_blocks
from qcore_backend_cpu.ops import conv2d_op, linear_coded_op, linear_op
from qcore_backend_cpu.prepare import prepare_block
from qcore_backend_cpu.testing import TOKENS, kernels, make_request, make_weight

INPUT = 'core/int(bits=8, granularity="token")'


def make_block(coded: bool = False) -> Tensor:
    weight = make_weight("int", 4, (10, 20))
    return prepare_block(make_request(weight, None if coded else TOKENS, coded=coded), QTensor.pack(weight), None)


def packed_model() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2), nn.Flatten(), nn.Linear(4 * 36, 5)
    )
    rules = {"*": {"weight": "core/int(bits=4)", "input": INPUT}}
    return qcore.pack(qcore.quantize(model, rules), "backend_cpu/cpu")


def test_linear_passes_opcheck() -> None:
    for shape in ((3, 20), (20,), (2, 3, 20)):
        torch.library.opcheck(linear_op, (torch.randn(shape), make_block(), 10))


def test_linear_coded_passes_opcheck() -> None:
    codes, zero = torch.randint(0, 255, (3, 20)).float(), torch.full((3, 1), 7.0)
    torch.library.opcheck(linear_coded_op, (codes, torch.ones(3, 1), zero, make_block(True), 10, 1, 128))
    torch.library.opcheck(linear_coded_op, (codes, torch.ones(1, 1), None, make_block(True), 10, 1, 128))


def test_conv2d_passes_opcheck() -> None:
    conv = Conv2dShape((2, 1), (1, 0), (1, 1), 2)
    weight = make_weight("int", 4, (6, 2, 3, 3))
    blocks = conv2d_blocks(make_request(weight, TOKENS, conv=conv), QTensor.pack(weight), None)
    torch.library.opcheck(conv2d_op, (torch.randn(2, 4, 9, 9), blocks, 6, [3, 3], [2, 1], [1, 0], [1, 1]))


def test_a_block_that_is_none_is_refused() -> None:
    block = make_block()
    damaged = block.clone()
    damaged[64:400] = 255
    for bad in (block[:-64], torch.zeros(8, dtype=torch.uint8), torch.zeros(5000, dtype=torch.uint8), damaged):
        with pytest.raises(UsageError):
            linear_op(torch.randn(3, 20), bad, 10)
    with pytest.raises(UsageError):
        linear_op(torch.randn(3, 21), block, 10)
    with pytest.raises(UsageError):
        linear_op(torch.randn(3, 20), block, 11)


def test_export_gives_equal_outputs() -> None:
    model, x = packed_model(), torch.randn(2, 3, 8, 8)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for batch in (x, torch.randn(5, 3, 8, 8)):
        assert torch.equal(exported.module()(batch), model(batch))


def test_compile_without_graph_breaks_gives_equal_outputs() -> None:
    model, x = packed_model(), torch.randn(2, 3, 8, 8)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), model(x))


RECORDERS: dict[str, Callable[[nn.Module, Tensor], Callable[[Tensor], Tensor]]] = {
    "jit.trace": lambda model, x: torch.jit.trace(model, (x,)),
    "make_fx": lambda model, x: make_fx(model)(x),
    "make_fx before dispatch": lambda model, x: make_fx(model, pre_dispatch=True)(x),
}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("recorder", RECORDERS)
@pytest.mark.parametrize("input", [INPUT, None], ids=["integer", "weight-only"])
def test_a_traced_layer_computes_what_it_does(recorder: str, input: str | None) -> None:
    rules = {"*": {"weight": "core/int(bits=4)", "input": input}}
    model = qcore.pack(qcore.quantize(nn.Sequential(nn.Linear(20, 10)), rules), "backend_cpu/cpu")
    x, other = torch.randn(2, 3, 20).unbind()
    with torch.no_grad():
        traced = RECORDERS[recorder](model, x)
        assert torch.equal(traced(other), model(other))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("recorder", RECORDERS)
def test_a_traced_layer_on_codes_computes_what_it_does(recorder: str) -> None:
    class Coded(nn.Module):
        def forward(self, codes: Tensor) -> Tensor:
            return layer.call(Encoded(codes, torch.ones(3, 1), torch.Size((3, 20)), torch.float32, "int", 4))

    layer, _ = kernels(make_weight("int", 4, (10, 20)), None, coded=True)
    model, (codes, other) = Coded(), torch.randint(-7, 8, (2, 3, 20)).float().unbind()
    assert torch.equal(RECORDERS[recorder](model, codes)(other), model(other))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("recorder", RECORDERS)
def test_a_traced_network_computes_what_it_does(recorder: str) -> None:
    model, (x, other) = packed_model(), torch.randn(2, 2, 3, 8, 8).unbind()
    with torch.no_grad():
        traced = RECORDERS[recorder](model, x)
        assert torch.equal(traced(other), model(other))


def test_a_dispatch_mode_sees_packed_layers() -> None:
    class Seen(TorchDispatchMode):
        names: ClassVar[set[str]] = set()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.add(str(func))
            return func(*args, **(kwargs or {}))

    model, x = packed_model(), torch.randn(2, 3, 8, 8)
    with Seen():
        y = model(x)
    assert torch.equal(y, model(x)) and {"qcore_cpu.linear.default", "qcore_cpu.conv2d.default"} <= Seen.names
