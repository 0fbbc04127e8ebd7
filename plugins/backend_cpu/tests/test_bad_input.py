"""What was once a crash or a wrong number, and must stay an error or right."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import qcore
from qcore.errors import UsageError
from qcore.tensor import QTensor
from qcore.tensor.arithmetic import Conv2dShape
from qcore_backend_cpu.backend import CpuBackend
from qcore_backend_cpu.conv2d import conv2d_blocks
from qcore_backend_cpu.native import ISA_VARIABLE, instruction_sets, load
from qcore_backend_cpu.ops import conv2d_op, linear_coded_op, linear_op
from qcore_backend_cpu.prepare import prepare_block
from qcore_backend_cpu.testing import TOKENS, kernels, make_request, make_weight

INPUT = "core/int(granularity='token')"


@pytest.fixture(params=[torch.float64, torch.bfloat16], ids=str)
def default_dtype(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


def test_a_default_dtype_changes_no_output(default_dtype: torch.dtype) -> None:
    layers = [nn.Conv2d(8, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 30)]
    rules = {"*": {"weight": "core/int(bits=4)", "input": INPUT}}
    packed = qcore.pack(qcore.quantize(nn.Sequential(*layers).float(), rules), "backend_cpu/cpu")
    plan = qcore.compile_plan(packed)
    x = torch.randn(70, 8, 8, 8, dtype=torch.float32)
    here = packed(x), plan(x)
    torch.set_default_dtype(torch.float32)
    assert here[0].dtype is here[1].dtype is torch.float32
    assert torch.equal(here[0], packed(x))
    assert torch.equal(here[1], qcore.compile_plan(packed)(x))


def test_a_default_device_changes_no_output() -> None:
    ours, reference = kernels(make_weight("int", 4, (40, 30)), TOKENS)
    images, _ = kernels(make_weight("int", 4, (40, 8, 3, 3)), TOKENS, conv=Conv2dShape())
    x, image = torch.randn(3, 30), torch.randn(2, 8, 5, 5)
    with torch.device("meta"):
        y, z = ours.call(x), images.call(image)
    assert torch.equal(y, reference.call(x))
    assert torch.equal(z, images.call(image))


def test_a_convolution_of_too_many_terms_is_left_to_the_reference() -> None:
    weight = make_weight("int", 4, (4, 65_600, 1, 1))
    assert "terms" in str(CpuBackend().reject(make_request(weight, TOKENS, conv=Conv2dShape())))
    weight = make_weight("uint", 8, (4, 65_536, 1, 1), fill=1)
    ours, reference = kernels(weight, TOKENS, conv=Conv2dShape())
    x = torch.randn(1, 65_536, 2, 2)
    assert torch.equal(ours.call(x), reference.call(x))


def conv_block() -> Tensor:
    weight = make_weight("int", 4, (6, 2, 3, 3))
    (block,) = conv2d_blocks(make_request(weight, TOKENS, conv=Conv2dShape()), QTensor.pack(weight), None)
    return block


def run_conv(blocks: list[Tensor], kernel: tuple[int, int] = (3, 3)) -> Tensor:
    x, count = torch.randn(2, 2 * len(blocks), 9, 9), 6 * len(blocks)
    result: Tensor = conv2d_op(x, blocks, count, list(kernel), [1, 1], [0, 0], [1, 1])
    return result


def test_the_convolution_op_takes_blocks_that_were_prepared_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_conv([conv_block(), conv_block()]).shape == (2, 12, 7, 7)
    if len(instruction_sets()) > 1:
        monkeypatch.setenv(ISA_VARIABLE, "portable")
        other = conv_block()
        monkeypatch.setenv(ISA_VARIABLE, "emulated512")
        with pytest.raises(UsageError):
            run_conv([conv_block(), other])
    grouped = make_weight("int", 4, (6, 18), group_size=9)
    for scheme in (TOKENS, None):
        block = prepare_block(make_request(grouped, scheme), QTensor.pack(grouped), None)
        with pytest.raises(UsageError):
            run_conv([block])
    with pytest.raises(UsageError):
        run_conv([conv_block()], (-3, -3))


def test_coded_rows_have_two_dimensions() -> None:
    weight = make_weight("int", 4, (10, 20))
    block = prepare_block(make_request(weight, None, coded=True), QTensor.pack(weight), None)
    with pytest.raises(UsageError):
        linear_coded_op(torch.zeros(4096, 20, 0), torch.ones(1, 1), None, block, 10, 1, 0)


@pytest.mark.parametrize("claimed", range(8))
def test_a_block_runs_by_kernels_that_read_its_layout(claimed: int, isa: str) -> None:
    weight, x = make_weight("uint", 8, (50, 70)), torch.randn(5, 70)
    _, reference = kernels(weight, TOKENS)
    block = prepare_block(make_request(weight, TOKENS), QTensor.pack(weight), None)
    place = place_of_isa(block)
    block[place : place + 4] = torch.tensor([claimed, 0, 0, 0], dtype=torch.uint8)
    assert torch.equal(linear_op(x, block, 50), reference.call(x))


def place_of_isa(block: Tensor) -> int:
    module, _ = load()
    for place in range(0, 128, 4):
        changed = block.clone()
        changed[place] = 99
        try:
            found = module.describe(changed.data_ptr(), changed.numel())
        except ValueError:
            continue
        if found[4] == 99:
            return place
    raise AssertionError("the header names no instruction set")


def test_a_plan_of_a_layer_without_features_gives_its_bias() -> None:
    model = nn.Sequential(nn.Linear(0, 3), nn.ReLU()).eval()
    x = torch.zeros(4, 0)
    assert torch.equal(qcore.compile_plan(model, "backend_cpu/cpu")(x), model(x))
