"""Convolutions whose every channel has a kernel of its own: the bits of the reference, from one block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcore.errors import UsageError
from qcore.tensor import ActivationScheme
from qcore.tensor.arithmetic import Conv2dShape
from qcore.tensor.layers import reshaped
from qcore_backend_cpu.kernel import CpuKernel
from qcore_backend_cpu.native import load
from qcore_backend_cpu.ops import conv2d_op, linear_op
from qcore_backend_cpu.testing import TOKENS, kernels, make_weight, same

STATIC = ActivationScheme(8, False, False, low=torch.full((1, 1), -1.5), high=torch.full((1, 1), 2.0))
SCHEMES = (TOKENS, ActivationScheme(8, symmetric=False), STATIC, ActivationScheme(4))
MIXED = [1, 2, 3, 4, 8, 5]
WIDTHS: Sequence[tuple[str, Any]] = (
    ("ternary", 2),
    ("int", 8),
    ("uint", 8),
    ("uint", 3),
    ("odd", 1),
    ("odd", 8),
    ("symmetric", 3),
    ("symmetric", MIXED),
)


def widths_of(bits: int | list[int], channels: int) -> int | list[int]:
    return bits if isinstance(bits, int) else (bits * channels)[:channels]


def walk_of(channels: int, stride: int = 1) -> Conv2dShape:
    return Conv2dShape((stride, stride), (1, 1), (1, 1), channels)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_walk_equals_the_reference(isa: str, data: st.DataObject) -> None:
    channels = data.draw(st.integers(2, 70))
    kernel = (data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5)))
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    padding = data.draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
    conv = Conv2dShape(data.draw(pair), padding, data.draw(pair), channels)
    encoding, bits = data.draw(st.sampled_from(WIDTHS))
    scales = data.draw(st.sampled_from(["row", "tensor"]))
    weight = make_weight(encoding, widths_of(bits, channels), (channels, 1, *kernel), scales=scales, seed=channels)
    bias = torch.randn(channels) if data.draw(st.booleans()) else None
    ours, reference = kernels(weight, data.draw(st.sampled_from(SCHEMES)), bias=bias, conv=conv)
    size = (data.draw(st.integers(13, 17)), data.draw(st.integers(13, 17)))
    x = torch.randn(data.draw(st.integers(0, 3)), channels, *size)
    if data.draw(st.booleans()):
        x = x.to(memory_format=torch.channels_last)
    y = ours.call(x)
    assert torch.equal(y, reference.call(x))
    assert y.is_contiguous(memory_format=torch.channels_last if not x.is_contiguous() else torch.contiguous_format)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [16, 31, 96, 200])
def test_three_by_three_equals_the_reference(isa: str, threads: int, channels: int, stride: int) -> None:
    weight = make_weight("symmetric", widths_of(MIXED, channels), (channels, 1, 3, 3))
    ours, reference = kernels(weight, STATIC, bias=torch.randn(channels), conv=walk_of(channels, stride))
    assert isinstance(ours, CpuKernel)
    assert len(ours.blocks) == 1
    for size in ((1, 1), (7, 7), (29, 30)):
        x = torch.randn(2, channels, *size)
        assert torch.equal(ours.call(x), reference.call(x))


@pytest.mark.parametrize(("encoding", "bits"), WIDTHS, ids=str)
def test_codes_and_activations_at_their_ends_do_not_overflow(isa: str, encoding: str, bits: int | list[int]) -> None:
    for fill in (0, 1):
        weight = make_weight(encoding, widths_of(bits, 33), (33, 1, 9, 9), fill=fill)
        for scheme in (TOKENS, ActivationScheme(8, symmetric=False)):
            ours, reference = kernels(weight, scheme, conv=Conv2dShape((1, 1), (4, 4), (1, 1), 33))
            for value in (-1.0, 1.0):
                x = torch.full((1, 33, 10, 11), value)
                assert torch.equal(ours.call(x), reference.call(x))


@pytest.mark.parametrize(("encoding", "bits"), [("int", 8), ("uint", 8), ("odd", 8), ("odd", 3)])
def test_coded_images_equal_the_reference(isa: str, encoding: str, bits: int) -> None:
    ours, reference = kernels(make_weight("int", 4, (10, 1, 3, 3)), None, coded=True, conv=walk_of(10))
    x = reshaped(make_weight(encoding, bits, (2, 10 * 64)), torch.Size((2, 10, 8, 8)))
    assert torch.equal(ours.call(x), reference.call(x))


def test_an_image_with_nan_is_nan_and_spoils_no_other(isa: str) -> None:
    ours, reference = kernels(make_weight("int", 4, (10, 1, 3, 3)), TOKENS, conv=walk_of(10))
    x = torch.randn(3, 10, 8, 8)
    x[1, 0, 4, 4] = float("nan")
    y = ours.call(x)
    assert bool(y[1].isnan().all())
    assert same(y[::2], reference.call(x)[::2])


def test_a_kernel_whose_sums_need_more_than_32_bits_runs_group_by_group(isa: str) -> None:
    weight = make_weight("uint", 8, (2, 1, 182, 182), fill=1)
    weight.zero_point.zero_()  # type: ignore[union-attr]
    ours, reference = kernels(weight, ActivationScheme(8, symmetric=False), conv=Conv2dShape((1, 1), (0, 0), (1, 1), 2))
    assert isinstance(ours, CpuKernel)
    assert len(ours.blocks) == 2
    x = torch.full((1, 2, 182, 182), 1.0)
    assert torch.equal(ours.call(x), reference.call(x))


def test_its_block_serves_its_own_op_alone(isa: str) -> None:
    ours, reference = kernels(make_weight("int", 4, (10, 1, 3, 3)), TOKENS, conv=walk_of(10))
    assert isinstance(ours, CpuKernel)
    x, walk = torch.randn(2, 10, 8, 8), ([1, 1], [1, 1], [1, 1])
    blocks = list(ours.blocks)
    assert torch.equal(conv2d_op(x, blocks, 10, [3, 3], *walk), reference.call(x))
    for wrong in (
        lambda: conv2d_op(x, blocks, 20, [3, 3], *walk),
        lambda: conv2d_op(x[:, :9], blocks, 9, [3, 3], *walk),
        lambda: conv2d_op(x, blocks, 10, [3, 2], *walk),
        lambda: conv2d_op(x, blocks * 2, 20, [3, 3], *walk),
        lambda: linear_op(torch.randn(1, 9), blocks[0], 10),
    ):
        with pytest.raises(UsageError):
            wrong()


def test_a_damaged_block_is_none(isa: str) -> None:
    ours, _ = kernels(make_weight("int", 4, (10, 1, 3, 3)), TOKENS, conv=walk_of(10))
    assert isinstance(ours, CpuKernel)
    native, _ = load()
    block = ours.blocks[0]
    assert native.describe(block.data_ptr(), block.numel())[-1] is True
    for word in (4, 6, 8, 14, 18, 22):  # rows, columns, segments, lanes, buckets, the kind of block
        damaged = block.clone()
        damaged[: damaged.numel() // 4 * 4].view(torch.int32)[word] += 1 << 20
        if word == 22:
            damaged[: damaged.numel() // 4 * 4].view(torch.int32)[word] = 0
        with pytest.raises(ValueError, match="no weight"):
            native.describe(damaged.data_ptr(), damaged.numel())
