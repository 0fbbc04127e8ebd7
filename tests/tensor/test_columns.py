"""Columns: a clip and a width for each feature, exact on a common grid."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcore.errors import QuantizationError
from qcore.tensor import ActivationScheme, Columns, Encoded, integer_linear
from qcore.tensor.columns import GRIDS
from qcore.tensor.layers import encode_images
from qcore.testing.backend_problems import coded_weight
from qcore.testing.column_problems import column_scheme
from qcore.testing.inputs import normal

WIDTHS = torch.tensor([4, 8, 16, 4, 8])


def scheme_of(widths: torch.Tensor = WIDTHS, *, symmetric: bool = False) -> ActivationScheme:
    return column_scheme(widths, torch.linspace(0.5, 2.0, len(widths)), symmetric=symmetric)


def test_codes_of_all_widths_lie_on_one_grid() -> None:
    x = torch.tensor([[9.0, 9.0, 9.0, 0.0, -9.0]])
    assert scheme_of().encode(x).codes.tolist() == [[65535, 65535, 65535, 0, 0]]
    assert scheme_of(symmetric=True).encode(x).codes.tolist() == [[32760, 32760, 32760, 0, -32760]]
    small = torch.tensor([4, 8])
    assert scheme_of(small).encode(x[:, :2]).codes.tolist() == [[255, 255]]
    assert scheme_of(small, symmetric=True).encode(-x[:, :2]).codes.tolist() == [[-126, -126]]


def test_steps_are_the_documented_ones() -> None:
    grids = {bits: scheme_of(torch.tensor([4, 8, bits])).columns for bits in (8, 16)}
    assert grids[8] is not None and grids[16] is not None
    assert grids[8].step.tolist() == [[17, 1, 1]] and grids[16].step.tolist() == [[4369, 257, 1]]
    signed = {bits: scheme_of(torch.tensor([4, 8, bits]), symmetric=True).columns for bits in (8, 16)}
    assert signed[8] is not None and signed[16] is not None
    assert signed[8].step.tolist() == [[18, 1, 1]] and signed[16].step.tolist() == [[4680, 260, 1]]


@given(symmetric=st.booleans(), wide=st.booleans(), seed=st.integers(0, 2**20))
def test_each_column_is_rounded_over_its_own_clip(symmetric: bool, wide: bool, seed: int) -> None:
    widths = WIDTHS if wide else WIDTHS.clamp_max(8)
    scheme, x = scheme_of(widths, symmetric=symmetric), 2 * normal((7, 5), torch.float32, seed=seed)
    columns, coded = scheme.columns, scheme.encode(x.view(7, 1, 5))
    assert columns is not None
    low = -columns.largest if symmetric else 0 * columns.largest
    wanted = torch.minimum(torch.maximum((x * columns.inverse).round(), low), columns.largest) * columns.step
    assert torch.equal(coded.codes, wanted)
    assert (coded.shape, coded.encoding, coded.zero_point) == ((7, 1, 5), "int" if symmetric else "uint", None)
    assert coded.bits == scheme.bits and coded.scale.shape == (1, 1)
    assert coded.codes.abs().max() <= scheme.largest == GRIDS[scheme.bits, symmetric]


@pytest.mark.parametrize("encoding", ["odd", "int", "uint"])
def test_sums_of_16_bit_codes_are_exact(encoding: str) -> None:
    cols = 65536
    weight = coded_weight(encoding, 8, (2, cols), "tensor", fill=1.0)
    x = Encoded(torch.full((1, cols), 65535.0), torch.ones(1, 1), torch.Size((1, cols)), torch.float32, "uint", 16)
    exact = x.codes.double() @ weight.centred().double().t()
    assert torch.equal(integer_linear(x, weight, None), exact.float() * weight.scale.reshape(1, -1))


def test_a_scheme_with_columns_is_not_handed_over() -> None:
    scheme = scheme_of()
    assert not scheme.is_static
    assert not scheme.agrees(scheme)


@pytest.mark.parametrize(
    "options", [{"bits": 4}, {"per_token": True}, {"low": torch.zeros(1, 1), "high": torch.ones(1, 1)}], ids=str
)
def test_columns_contradict_other_ranges(options: dict[str, Any]) -> None:
    columns = scheme_of().columns
    with pytest.raises(QuantizationError, match="columns"):
        ActivationScheme(**({"bits": 16, "symmetric": False, "per_token": False, "columns": columns} | options))


def test_parts_of_other_shapes_are_refused() -> None:
    row, one = torch.ones(1, 3), torch.ones(1, 1)
    for parts in (
        (row, row[:, :2], row, one),
        (row, row, row, row),
        (row[0], row, row, one),
        (row, row, row.double(), one),
    ):
        with pytest.raises(QuantizationError, match="columns"):
            Columns(*parts)


def test_other_numbers_of_features_and_images_are_refused() -> None:
    with pytest.raises(QuantizationError, match="6 features"):
        scheme_of().encode(torch.ones(2, 6))
    with pytest.raises(QuantizationError, match="convolution"):
        encode_images(torch.ones(1, 1, 1, 5), scheme_of())
