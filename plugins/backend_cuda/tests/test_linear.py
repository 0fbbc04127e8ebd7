"""Every kernel of packed linear layers, in every configuration that the choice would not take at such small sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qcore.backends.plan.base import sum_bound
from qcore.errors import UsageError
from qcore.tensor import ActivationScheme, Encoded, QTensor
from qcore.tensor.layers import linear
from qcore.testing.backend_checks import exact
from qcore.testing.backend_problems import Problem, coded_weight, problem
from qcore.testing.inputs import generator, normal
from qcore_backend_cuda.backend import CudaBackend
from qcore_backend_cuda.config import Config
from qcore_backend_cuda.linear import float_rows, integer_rows, op_arguments
from qcore_backend_cuda.ops import linear_op
from qcore_backend_cuda.weights import PackedWeight

CONFIGS = (
    Config("gemv", 8, 128, 4, 1),
    Config("gemv", 4, 0, 1, 3, shared=True, fraction=True),
    Config("gemv", 8, 0, 4, 2, shared=True, fused=True),
    Config("dot", 64, 16, 4, 3),
    Config("dot", 32, 16, 4, 3, split=3),
    Config("dense", 128, 128, 8, 4),
)
SHAPE = (19, 300)
WIDTHS = (("ternary", 2), ("odd", 3), ("odd", 8), *(("int", bits) for bits in range(2, 9)), ("uint", 1), ("uint", 8))


def packed(given: Problem, *, integer: bool) -> PackedWeight:
    return PackedWeight.pack(QTensor.pack(given.weight), given.bias, integer=integer)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize(("encoding", "bits"), WIDTHS)
def test_integer_sums_are_exact(encoding: str, bits: int, config: Config, device: torch.device) -> None:
    scheme = ActivationScheme(8, symmetric=bits % 2 == 0)
    weight = coded_weight(encoding, bits, SHAPE, "row")
    given = problem(weight, normal((2, SHAPE[1]), torch.float32), scheme).to(str(device))
    assert isinstance(given.x, Tensor)
    got = integer_rows(given.x, packed(given, integer=True), scheme, None, config)
    assert torch.equal(got, exact(given))


FLOATS = [(*width, torch.float32) for width in WIDTHS]
FLOATS += [(*width, dtype) for width in WIDTHS[:3:2] + WIDTHS[5:6] for dtype in (torch.float16, torch.bfloat16)]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize(("encoding", "bits", "dtype"), FLOATS, ids=str)
def test_float_sums_are_within_their_bound(
    encoding: str, bits: int, dtype: torch.dtype, config: Config, device: torch.device
) -> None:
    weight = coded_weight(encoding, bits, SHAPE, "row")
    given = problem(weight, normal((2, SHAPE[1]), torch.float32), None).to(str(device))
    assert isinstance(given.x, Tensor) and given.bias is not None
    x = given.x.to(dtype)
    wanted = linear(x.double(), _decoded(given.weight), given.bias.double())
    got = float_rows(x, packed(given, integer=False), config)
    rounding = {torch.float32: 0.0, torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}[dtype]
    assert got.dtype == dtype
    assert float((got.double() - wanted).abs().max()) <= (sum_bound(SHAPE[1]) + rounding) * float(wanted.abs().max())


def _decoded(weight: Encoded) -> Encoded:
    return replace(weight, codes=weight.codes.double(), scale=weight.scale.double(), dtype=torch.float64)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("group_size", [32, 96])
@pytest.mark.parametrize("bits", [3, 4])
def test_groups_of_columns_have_their_scales(bits: int, group_size: int, config: Config, device: torch.device) -> None:
    rows, cols = 9, 200
    drawn = generator(group_size)
    groups = -(-cols // group_size)
    codes = torch.randint(0, 1 << bits, (rows, cols), generator=drawn).float()
    scale = 0.1 + torch.rand(rows, groups, generator=drawn)
    zero = torch.randint(0, 1 << bits, (rows, groups), generator=drawn).float()
    weight = Encoded(codes, scale, torch.Size((rows, cols)), torch.float32, "uint", bits, zero, group_size)
    given = problem(weight, normal((3, cols), torch.float32), None).to(str(device))
    assert CudaBackend().reject(given.request) is None
    assert isinstance(given.x, Tensor) and given.bias is not None
    wanted = linear(given.x.double(), _spread(given.weight), given.bias.double())
    got = float_rows(given.x, packed(given, integer=False), config)
    assert float((got.double() - wanted).abs().max()) <= sum_bound(cols) * float(wanted.abs().max())


def _spread(weight: Encoded) -> Encoded:
    values = replace(weight, dtype=torch.float64).decode()
    one = torch.ones(1, 1, dtype=torch.float64, device=values.device)
    return Encoded(values, one, weight.shape, torch.float64, "int", 8)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("integer", [True, False])
def test_rows_of_several_widths_come_back_in_their_order(integer: bool, config: Config, device: torch.device) -> None:
    bits = torch.tensor([2, 4, 8, 3, 8])[torch.randint(0, 5, (45,), generator=generator(1))]
    scheme = ActivationScheme(8) if integer else None
    given = problem(coded_weight("int", bits, (45, 300), "row"), normal((4, 300), torch.float32), scheme).to(
        str(device)
    )
    assert isinstance(given.x, Tensor) and given.bias is not None
    weight = packed(given, integer=integer)
    assert weight.widths == (2, 3, 4, 8) and weight.has_order
    if scheme is not None:
        assert torch.equal(integer_rows(given.x, weight, scheme, None, config), exact(given))
        return
    wanted = linear(given.x.double(), _decoded(given.weight), given.bias.double())
    off = (float_rows(given.x, weight, config).double() - wanted).abs().max()
    assert float(off) <= sum_bound(300) * float(wanted.abs().max())


@pytest.mark.parametrize("integer", [True, False])
def test_a_weight_is_its_plain_parts(integer: bool) -> None:
    bits = torch.tensor([2, 8])[torch.arange(9) % 2]
    given = problem(coded_weight("int", bits, (9, 70), "row"), normal((2, 70), torch.float32), None)
    weight = packed(given, integer=integer)
    again = PackedWeight.from_parts(weight.tensors(), weight.facts())
    assert again.facts() == weight.facts() and again.nbytes == weight.nbytes


def test_packing_unpacks_some_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from qcore_backend_cuda import weights

    given = problem(coded_weight("int", 4, (50, 70), "row"), normal((2, 70), torch.float32), None)
    whole = packed(given, integer=True)
    monkeypatch.setattr(weights, "_CODES_AT_ONCE", 7 * 70)
    parts = packed(given, integer=True)
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors(), parts.tensors(), strict=True))


def test_what_does_not_fit_is_refused(device: torch.device) -> None:
    given = problem(coded_weight("int", 4, (5, 6), "row"), normal((2, 6), torch.float32), ActivationScheme(8))
    given = given.to(str(device))
    kernel = CudaBackend().prepare(given.request, QTensor.pack(given.weight), given.bias)
    for x in (torch.zeros(2, 7, device=device), torch.zeros(2, 6, dtype=torch.int32, device=device)):
        with pytest.raises(UsageError, match="this layer takes"):
            kernel.call(x)
    with pytest.raises(UsageError, match="not Encoded"):
        kernel.call(ActivationScheme(8).encode(torch.zeros(2, 6, device=device)))


def test_a_gradient_is_the_references(device: torch.device) -> None:
    given = problem(coded_weight("int", 4, (5, 6), "row"), normal((2, 6), torch.float32), None).to(str(device))
    kernel = CudaBackend().prepare(given.request, QTensor.pack(given.weight), given.bias)
    assert isinstance(given.x, Tensor)
    x = given.x.clone().requires_grad_()
    kernel.call(x).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, given.weight.decode().sum(dim=0).expand(2, -1))


def test_torch_library_finds_no_fault_with_the_op(device: torch.device) -> None:
    low = torch.full((1, 1), -1.5, device=device)
    for scheme in (None, ActivationScheme(8), ActivationScheme(8, True, False, low=low, high=-low)):
        given = problem(coded_weight("int", 4, (5, 70), "row"), normal((2, 3, 70), torch.float32), scheme)
        given = given.to(str(device))
        arguments = op_arguments(given.request, packed(given, integer=scheme is not None))
        torch.library.opcheck(linear_op, (given.x, *arguments))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_with_nan_or_infinity_gives_nan_and_no_other_row_does(bad: float, device: torch.device) -> None:
    low = torch.full((1, 1), -1.5, device=device)
    for scheme in (
        ActivationScheme(8),
        ActivationScheme(8, False),
        ActivationScheme(8, True, False, low=low, high=-low),
    ):
        given = problem(coded_weight("uint", 4, (5, 70), "row"), normal((3, 70), torch.float32), scheme).to(str(device))
        kernel = CudaBackend().prepare(given.request, QTensor.pack(given.weight), given.bias)
        assert isinstance(given.x, Tensor)
        spoilt = given.x.clone()
        spoilt[1, 33] = bad
        got, wanted = kernel.call(spoilt), kernel.call(given.x)
        assert got[1].isnan().all()
        assert torch.equal(got[::2], wanted[::2])
