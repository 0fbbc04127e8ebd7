from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qcore.tensor import ActivationScheme
from qcore_backend_cpu.testing import TOKENS, WIDTHS, kernels, make_weight, same

SCHEMES = [
    TOKENS,
    ActivationScheme(8, symmetric=False),
    ActivationScheme(4),
    ActivationScheme(3, symmetric=False),
    ActivationScheme(8, floor=1e-5),
    ActivationScheme(8, True, False, low=torch.full((1, 1), -2.0), high=torch.full((1, 1), 2.0)),
    ActivationScheme(8, False, False, low=torch.full((1, 1), -1.5), high=torch.full((1, 1), 2.0)),
]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(WIDTHS),
    st.integers(1, 150),
    st.integers(1, 700),
    st.integers(0, 30),
    st.sampled_from(SCHEMES),
    st.booleans(),
    st.integers(0, 99),
)
def test_any_shape_equals_the_reference(
    isa: str, width: tuple[str, int], rows: int, cols: int, batch: int, scheme: ActivationScheme, bias: bool, seed: int
) -> None:
    weight = make_weight(*width, (rows, cols), seed=seed)
    x = torch.randn(batch, cols, generator=torch.Generator().manual_seed(seed))
    offsets = torch.randn(rows, generator=torch.Generator().manual_seed(seed)) if bias else None
    ours, reference = kernels(weight, scheme, bias=offsets)
    assert torch.equal(ours.call(x), reference.call(x))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(WIDTHS),
    st.integers(1, 80),
    st.integers(1, 300),
    st.integers(1, 130),
    st.integers(0, 9),
    st.sampled_from(SCHEMES),
)
def test_groups_of_any_size_equal_the_reference(
    isa: str, width: tuple[str, int], rows: int, cols: int, group: int, batch: int, scheme: ActivationScheme
) -> None:
    weight = make_weight(*width, (rows, cols), group_size=group, seed=cols)
    ours, reference = kernels(weight, scheme)
    x = torch.randn(batch, cols, generator=torch.Generator().manual_seed(cols))
    assert torch.equal(ours.call(x), reference.call(x))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.integers(1, 8), min_size=1, max_size=150),
    st.integers(1, 200),
    st.integers(0, 20),
    st.sampled_from(["int", "uint", "odd", "symmetric"]),
)
def test_rows_of_mixed_widths_equal_the_reference(isa: str, bits: list[int], cols: int, batch: int, name: str) -> None:
    bits = [max(b, 2) for b in bits] if name == "int" else bits
    weight = make_weight(name, bits, (len(bits), cols), seed=cols)
    ours, reference = kernels(weight, TOKENS, bias=torch.randn(len(bits)))
    x = torch.randn(batch, cols)
    assert torch.equal(ours.call(x), reference.call(x))


@pytest.mark.parametrize("width", WIDTHS, ids=str)
@pytest.mark.parametrize("cols", [8, 127, 1024, 5000])
def test_codes_and_activations_at_their_ends_do_not_overflow(isa: str, width: tuple[str, int], cols: int) -> None:
    for fill in (0, 1):
        weight = make_weight(*width, (40, cols), fill=fill)
        for scheme in (TOKENS, ActivationScheme(8, symmetric=False)):
            ours, reference = kernels(weight, scheme)
            for batch in (1, 3, 13):
                for sign in (-1.0, 1.0):
                    x = torch.full((batch, cols), sign)
                    assert torch.equal(ours.call(x), reference.call(x))


@pytest.mark.parametrize("width", [("odd", 1), ("uint", 2), ("uint", 4), ("uint", 7), ("uint", 8)], ids=str)
def test_the_longest_integer_sums_do_not_overflow(isa: str, width: tuple[str, int]) -> None:
    ours, reference = kernels(make_weight(*width, (2, 65_536), fill=1), ActivationScheme(8, symmetric=False))
    for batch in (1, 3):
        for sign in (-1.0, 1.0):
            x = torch.full((batch, 65_536), sign)
            assert torch.equal(ours.call(x), reference.call(x))


@pytest.mark.parametrize(
    "width", [("ternary", 2), ("odd", 1), ("odd", 8), ("int", 8), ("uint", 8), ("uint", 5)], ids=str
)
@pytest.mark.parametrize("cols", [70_001, 100_000])
def test_a_hundred_thousand_columns_are_summed_exactly(isa: str, width: tuple[str, int], cols: int) -> None:
    scheme = ActivationScheme(8, symmetric=False)
    for fill in (None, 1):
        ours, reference = kernels(make_weight(*width, (3, cols), fill=fill), scheme)
        for x in (torch.full((4, cols), 1.0), torch.randn(2, cols)):
            assert torch.equal(ours.call(x), reference.call(x))


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_row_with_nan_or_infinity_spoils_no_other_row(isa: str, scheme: ActivationScheme, bad: float) -> None:
    ours, reference = kernels(make_weight("int", 4, (37, 75)), scheme, bias=torch.randn(37))
    for batch in (1, 4, 20):
        for place in (0, 33, 74):
            x = torch.randn(batch, 75)
            x[batch // 2, place] = bad
            assert same(ours.call(x), reference.call(x))


def test_a_scale_of_zero_gives_the_bias(isa: str) -> None:
    weight = make_weight("int", 4, (9, 20))
    weight.scale.zero_()
    bias = torch.randn(9)
    ours, _ = kernels(weight, TOKENS, bias=bias)
    assert torch.equal(ours.call(torch.randn(2, 20)), bias.expand(2, 9))


@pytest.mark.parametrize(
    "encoding,bits", [("int", 8), ("uint", 8), ("uint", 3), ("odd", 8), ("odd", 3), ("ternary", 2), ("symmetric", 8)]
)
def test_coded_inputs_equal_the_reference(isa: str, encoding: str, bits: int) -> None:
    ours, reference = kernels(make_weight("uint", 5, (21, 50)), None, coded=True, bias=torch.randn(21))
    for scales in ("row", "tensor"):
        x = make_weight(encoding, bits, (7, 50), scales=scales, seed=5)
        assert torch.equal(ours.call(x), reference.call(x))


@pytest.mark.parametrize("group_size", [None, 5, 64])
@pytest.mark.parametrize("width", [("ternary", 2), ("odd", 1), ("int", 4), ("uint", 7), ("int", 8)], ids=str)
def test_float_activations_stay_within_the_bound(isa: str, width: tuple[str, int], group_size: int | None) -> None:
    for rows, cols in ((1, 1), (33, 127), (70, 300)):
        weight = make_weight(*width, (rows, cols), group_size=group_size)
        ours, _ = kernels(weight, None, bias=torch.randn(rows))
        bias = torch.randn(rows)
        ours, _ = kernels(weight, None, bias=bias)
        for batch in (0, 1, 2, 7, 100):
            x = torch.randn(batch, cols)
            exact = x.double() @ weight.decode().double().t() + bias
            magnitude = x.double().abs() @ weight.decode().double().abs().t() + bias.abs()
            assert bool(((ours.call(x) - exact).abs() <= (cols + 3) * 2.0**-23 * magnitude).all())


def test_a_row_does_not_depend_on_its_batch(isa: str) -> None:
    for scheme in (TOKENS, None):
        ours, _ = kernels(make_weight("int", 3, (50, 200)), scheme)
        x = torch.randn(23, 200)
        whole = ours.call(x)
        for m in (0, 11, 22):
            alone = ours.call(x[m : m + 1])[0]
            assert torch.equal(alone, whole[m]) if scheme else torch.allclose(alone, whole[m], rtol=1e-4, atol=1e-4)
