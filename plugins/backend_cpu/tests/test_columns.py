"""Inputs with a clip and a width for each column: equal to the reference bit for bit, on every instruction set."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcore.backends.plan import PackedStep, Program, Value
from qcore.errors import UsageError
from qcore.tensor import ActivationScheme, Columns
from qcore.testing.column_problems import column_scheme
from qcore_backend_cpu.backend import CpuBackend
from qcore_backend_cpu.kernel import CpuKernel
from qcore_backend_cpu.ops import linear_op
from qcore_backend_cpu.testing import kernels, make_request, make_weight, same


def scheme_of(cols: int, most: int, *, symmetric: bool) -> ActivationScheme:
    drawn = torch.Generator().manual_seed(cols)
    widths = torch.tensor([4, 8, 16])[torch.randint(0, 3, (cols,), generator=drawn)].clamp_max(most)
    return column_scheme(widths, 0.1 + 2 * torch.rand(cols, generator=drawn), symmetric=symmetric)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([("odd", 1), ("odd", 2), ("odd", 8), ("int", 4), ("int", 7), ("uint", 8), ("ternary", 2)]),
    st.integers(1, 150),
    st.integers(1, 300),
    st.sampled_from([0, 1, 2, 3, 15, 16, 17, 40]),
    st.sampled_from([8, 16]),
    st.booleans(),
    st.integers(0, 99),
)
def test_any_shape_equals_the_reference(
    isa: str, width: tuple[str, int], rows: int, cols: int, batch: int, most: int, symmetric: bool, seed: int
) -> None:
    weight = make_weight(*width, (rows, cols), seed=seed)
    x = 2 * torch.randn(batch, cols, generator=torch.Generator().manual_seed(seed))
    ours, reference = kernels(weight, scheme_of(cols, most, symmetric=symmetric), bias=torch.randn(rows))
    assert same(ours.call(x), reference.call(x))
    assert ours.bound == 0


@pytest.mark.parametrize("most", [8, 16])
@pytest.mark.parametrize("symmetric", [False, True])
def test_mixed_rows_in_any_order_equal_the_reference(isa: str, most: int, symmetric: bool, threads: int) -> None:
    bits = [1, 8, 2, 4] * 40
    weight = make_weight("odd", bits, (160, 700))
    ours, reference = kernels(weight, scheme_of(700, most, symmetric=symmetric), bias=torch.randn(160))
    x = torch.randn(70, 700, generator=torch.Generator().manual_seed(0))
    assert same(ours.call(x), reference.call(x))


@pytest.mark.parametrize("cols", [32768, 65536, 65537])
@pytest.mark.parametrize(("encoding", "fill"), [("odd", 1), ("odd", 0), ("int", 0), ("uint", 1)])
def test_the_worst_codes_do_not_overflow(isa: str, cols: int, encoding: str, fill: int) -> None:
    for symmetric, most in ((False, 16), (True, 16), (False, 8), (True, 8)):
        weight = make_weight(encoding, 8, (3, cols), fill=fill)
        if weight.zero_point is not None:
            weight = replace(weight, zero_point=torch.zeros_like(weight.zero_point))
        x = torch.full((3, cols), 9.0)
        x[1] *= -1
        x[2, ::2] *= -1
        ours, reference = kernels(
            weight, column_scheme(torch.full((cols,), most), torch.ones(cols), symmetric=symmetric)
        )
        assert same(ours.call(x), reference.call(x))


@pytest.mark.parametrize("most", [8, 16])
def test_nan_stays_in_its_row_and_infinity_is_clipped(isa: str, most: int) -> None:
    weight = make_weight("odd", 4, (20, 90))
    x = torch.randn(5, 90, generator=torch.Generator().manual_seed(0))
    x[1, 7], x[3, 8], x[4, 9] = torch.nan, torch.inf, -torch.inf
    ours, reference = kernels(weight, scheme_of(90, most, symmetric=True))
    y = ours.call(x)
    assert same(y, reference.call(x))
    assert y.isnan().any(dim=1).tolist() == [False, True, False, False, False]


def test_groups_of_columns_run_on_the_grid_of_8_bits(isa: str) -> None:
    weight = make_weight("int", 4, (20, 90), group_size=9)
    x = torch.randn(5, 90, generator=torch.Generator().manual_seed(0))
    ours, reference = kernels(weight, scheme_of(90, 8, symmetric=False))
    assert torch.allclose(ours.call(x), reference.call(x), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("most", [8, 16])
def test_ops_and_plans_run_them(most: int) -> None:
    weight = make_weight("odd", 2, (20, 90))
    scheme = scheme_of(90, most, symmetric=False)
    ours, reference = kernels(weight, scheme)
    assert isinstance(ours, CpuKernel)
    x = torch.randn(5, 90, generator=torch.Generator().manual_seed(0))
    assert same(linear_op(x, ours.blocks[0], 20), reference.call(x))
    step = PackedStep((Value(0),), Value(1), "layer", make_request(weight, scheme), ours, relu=True)
    program = Program((step,), Value(1))
    compiled = CpuBackend().compile(program)
    assert not isinstance(compiled, str)
    assert same(compiled((90,))(x), reference.call(x).relu())


def test_a_block_whose_columns_leave_their_grid_is_refused() -> None:
    ours, _ = kernels(make_weight("odd", 2, (20, 90)), scheme_of(90, 16, symmetric=False))
    assert isinstance(ours, CpuKernel)
    block = ours.blocks[0].clone()
    numbers = block[: block.numel() // 4 * 4].view(torch.float32)
    numbers[(numbers == 65535).nonzero()[0]] = 65536
    with pytest.raises(UsageError, match="no weight that qcore_backend_cpu prepared"):
        linear_op(torch.zeros(1, 90), block, 20)


def test_what_it_cannot_code_it_rejects_with_a_reason() -> None:
    backend, weight = CpuBackend(), make_weight("int", 4, (20, 90))
    grouped = make_request(make_weight("int", 4, (20, 90), group_size=9), scheme_of(90, 16, symmetric=False))
    assert "16 bits" in str(backend.reject(grouped))
    other = make_request(weight, scheme_of(91, 8, symmetric=False))
    assert "91 columns" in str(backend.reject(other))
    good = scheme_of(90, 8, symmetric=False).columns
    assert good is not None
    for wrong in (
        replace(good, step=good.step + 1),
        replace(good, step=good.step / 2),
        replace(good, largest=-good.largest),
    ):
        assert "leave their grid" in str(backend.reject(make_request(weight, with_columns(wrong))))


def with_columns(columns: Columns) -> ActivationScheme:
    return ActivationScheme(8, symmetric=False, per_token=False, columns=columns)
