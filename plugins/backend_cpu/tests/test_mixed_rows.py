"""Rows of several widths: as exact as those of one, in no more panels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcore_backend_cpu.kernel import CpuKernel
from qcore_backend_cpu.native import load
from qcore_backend_cpu.ops import linear_op
from qcore_backend_cpu.testing import TOKENS, kernels, make_weight, same

COUNTS = st.lists(st.sampled_from([0, 1, 15, 16, 31, 33, 63, 64, 65, 130]), min_size=4, max_size=4).filter(any)


def rows_of(counts: list[int], *, shuffled: bool) -> list[int]:
    widths = [width for width, count in zip((1, 2, 4, 8), counts, strict=True) for _ in range(count)]
    if not shuffled:
        return widths
    order = torch.randperm(len(widths), generator=torch.Generator().manual_seed(len(widths)))
    return [widths[i] for i in order.tolist()]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    COUNTS,
    st.integers(1, 200),
    st.sampled_from([1, 2, 7, 25, 100]),
    st.sampled_from(["odd", "uint", "symmetric"]),
    st.booleans(),
)
def test_integer_sums_equal_the_reference(
    isa: str, counts: list[int], cols: int, batch: int, encoding: str, shuffled: bool
) -> None:
    bits = rows_of(counts, shuffled=shuffled)
    weight = make_weight(encoding, bits, (len(bits), cols), seed=cols)
    ours, reference = kernels(weight, TOKENS, bias=torch.randn(len(bits)))
    x = torch.randn(batch, cols, generator=torch.Generator().manual_seed(cols))
    assert same(ours.call(x), reference.call(x))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    COUNTS,
    st.integers(1, 200),
    st.sampled_from([1, 2, 7, 24, 25, 100]),
    st.sampled_from(["odd", "uint", "symmetric"]),
    st.booleans(),
)
def test_float_sums_stay_within_their_bound(
    isa: str, counts: list[int], cols: int, batch: int, encoding: str, shuffled: bool
) -> None:
    bits = rows_of(counts, shuffled=shuffled)
    weight = make_weight(encoding, bits, (len(bits), cols), seed=cols)
    ours, reference = kernels(weight, None, bias=torch.randn(len(bits)))
    x = torch.randn(batch, cols, generator=torch.Generator().manual_seed(cols))
    y, wanted = ours.call(x), reference.call(x)
    scale = x.abs() @ weight.decode().abs().t() + 4
    assert bool(((y - wanted).abs() <= ours.bound * scale).all())


@pytest.mark.parametrize("encoding", ["odd", "symmetric"])
def test_mixed_rows_take_no_more_panels_than_their_number(isa: str, encoding: str) -> None:
    sizes = {}
    for name, counts in (("1 bit", [512, 0, 0, 0]), ("mixed", [481, 20, 11, 0]), ("4 bits", [0, 0, 512, 0])):
        weight = make_weight(encoding, rows_of(counts, shuffled=False), (512, 4096))
        sizes[name] = kernels(weight, TOKENS)[0].nbytes
    share = (sizes["mixed"] - sizes["1 bit"]) / (sizes["4 bits"] - sizes["1 bit"])
    assert share <= 64 / 512


@pytest.mark.parametrize("counts", [[40, 0, 0, 0], [0, 40, 0, 0], [70, 30, 20, 9]], ids=str)
def test_a_block_of_another_processor_gives_the_same_numbers(isa: str, counts: list[int]) -> None:
    bits = rows_of(counts, shuffled=False)
    weight = make_weight("odd", bits, (len(bits), 77))
    ours, reference = kernels(weight, None)
    assert isinstance(ours, CpuKernel)
    block = ours.blocks[0].clone()
    native, _ = load()
    isa_id = native.describe(block.data_ptr(), block.numel())[4]
    words = block[: block.numel() // 4 * 4].view(torch.int32)[:40]
    assert words[21] == isa_id
    words[21] = 99  # no instruction set that this processor has
    x = torch.randn(6, 77, generator=torch.Generator().manual_seed(0))
    y, wanted = linear_op(x, block, len(bits)), reference.call(x)
    assert bool(((y - wanted).abs() <= ours.bound * (x.abs() @ weight.decode().abs().t())).all())
