from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qcore
from qcore.errors import UsageError
from qcore.tensor import QTensor
from qcore.tensor.arithmetic import Conv2dShape
from qcore_backend_cpu.conv2d import conv2d_blocks
from qcore_backend_cpu.ops import conv2d_op, linear_coded_op, linear_op
from qcore_backend_cpu.prepare import prepare_block
from qcore_backend_cpu.testing import TOKENS, make_request, make_weight

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
