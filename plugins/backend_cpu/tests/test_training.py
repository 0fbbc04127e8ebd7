"""Quantizers by the compiled kernels, on every instruction set: bit for bit what ``encode`` says."""

from __future__ import annotations

import copy
import struct
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcore.errors import QuantizationError, UsageError
from qcore.quantizers import learned_scale, make_quantizer
from qcore.testing import training_checks
from qcore.testing.cases import Case, checks_of, run_case
from qcore.testing.inputs import same_bits
from qcore.testing.subjects import Offer
from qcore_backend_cpu import training_ops
from qcore_backend_cpu.training import CpuTrainingKernels

QUANTIZERS = [
    *(f"core/int(bits={bits})" for bits in range(1, 9)),
    *(f"core/int(bits={bits}, symmetric=False, granularity='token')" for bits in range(2, 9)),
    "core/int(bits=8, granularity='tensor')",
    "core/int(bits=1, granularity='tensor')",
    "core/int(bits=4, granularity='group', group_size=2)",
    "core/int(bits=4, dynamic=False, granularity='tensor')",
    "core/int(bits=4, dynamic=False, symmetric=False)",
    "core/int(bits=4, scale='mse')",
]
if find_spec("qcore_bitnet"):
    QUANTIZERS += [
        *(
            f"bitnet/{kind}(granularity={granularity!r}{size})"
            for kind in ("ternary", "binary")
            for granularity, size in (("tensor", ""), ("row", ""), ("group", ", group_size=2"))
        ),
        "bitnet/ternary(mask=True)",
        "bitnet/absmax",
    ]
LARGEST = torch.finfo(torch.float32).max


def floats() -> st.SearchStrategy[float]:
    """Every finite float32 by its bits, and those where rounding and signs turn."""
    edges = [0.0, -0.0, 0.5, -0.5, 1.5, 2.5, -2.5, 2.0**-149, -(2.0**-126), 2.0**-100, 1e-5, LARGEST, -LARGEST]
    bits = st.integers(0, 2**32 - 1).map(lambda word: struct.unpack("f", struct.pack("I", word))[0])
    return st.sampled_from(edges) | bits.filter(lambda value: abs(value) <= LARGEST) | st.floats(-4, 4, width=32)


@st.composite
def matrices(draw: st.DrawFn) -> Tensor:
    rows, cols = draw(st.sampled_from([(1, 1), (1, 7), (3, 8), (2, 18), (5, 130)]))
    pool = torch.tensor(draw(st.lists(floats(), min_size=1, max_size=24)), dtype=torch.float32)
    return pool[
        torch.randint(len(pool), (rows, cols), generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))
    ]


@pytest.mark.parametrize("reference", QUANTIZERS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(x=matrices())
def test_the_fused_result_is_what_encode_says(isa: str, reference: str, x: Tensor) -> None:
    quantizer = make_quantizer(reference)
    quantizer.initialize(x)
    kernels = quantizer.kernels.serve(x)
    assert isinstance(kernels, CpuTrainingKernels) and kernels.isa == isa
    wanted = quantizer.encode(x).decode()
    for value in (quantizer(x), quantizer(x.clone().requires_grad_()).detach(), quantizer.eval()(x)):
        assert same_bits(value, wanted)


def test_it_passes_the_checks_of_the_core(isa: str) -> None:
    from qcore.plugins import default

    registry = default().registry
    subject = Offer(registry.get("backend", "backend_cpu/cpu"), registry, {})
    for check in checks_of(training_checks):
        result = run_case(Case(check, subject))
        assert result.status == "passed", f"{result.check}: {result.message}"


@pytest.mark.parametrize("reference", QUANTIZERS)
def test_nan_and_infinity_are_told(isa: str, reference: str) -> None:
    for bad in (torch.nan, torch.inf, -torch.inf):
        x = torch.randn(3, 40)
        quantizer = make_quantizer(reference)
        quantizer.tensor_name = "head.weight"
        quantizer.initialize(x)
        x[2, 39] = bad
        with pytest.raises(QuantizationError, match=r"head\.weight holds 1"):
            quantizer(x)


def test_the_environment_leaves_them_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_BACKEND", "reference")
    assert make_quantizer("core/int").kernels.serve(torch.ones(2, 2)) is None


@pytest.fixture(params=[1, 2, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_any_number_of_threads_gives_the_same(isa: str, threads: int) -> None:
    kernels, one = CpuTrainingKernels(), torch.ones(1, 1)
    for shape in ((1, 300_000), (700, 301), (3, 70_000)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        torch.set_num_threads(threads)
        several = kernels.slice_sums(x), *kernels.learned_scale_gradients(x, x, one, -1.0, 1.0)
        torch.set_num_threads(1)
        alone = kernels.slice_sums(x), *kernels.learned_scale_gradients(x, x, one, -1.0, 1.0)
        assert all(torch.equal(a, b) for a, b in zip(several, alone, strict=True))


@pytest.mark.parametrize("view", ["transposed", "strided", "expanded", "channels last"])
def test_views_are_served_like_their_copies(isa: str, view: str) -> None:
    x = torch.randn(6, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    x = {
        "transposed": x.transpose(0, 1),
        "strided": x[::2, :, :, 1:4],
        "expanded": x[:1].expand(3, -1, -1, -1),
        "channels last": x.to(memory_format=torch.channels_last),
    }[view]
    for reference in QUANTIZERS:
        quantizer = make_quantizer(reference)
        quantizer.initialize(x)
        assert same_bits(quantizer(x), quantizer(x.contiguous()))


def test_gradients_of_any_layout_are_served(isa: str) -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    quantizer = make_quantizer("core/int(bits=4, dynamic=False, granularity='tensor')")
    quantizer.initialize(x / 2)
    for upstream in (torch.ones(()).expand(4, 6), torch.randn(6, 4).t()):
        leaf = x.clone().requires_grad_()
        quantizer(leaf).backward(upstream)
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, quantizer.expected_gradient(x, upstream))


def test_under_autocast_and_in_bfloat16_the_values_stay(isa: str) -> None:
    layer = torch.nn.Linear(8, 4)
    for reference in ("core/int(bits=4)", "bitnet/ternary"):
        quantizer = make_quantizer(reference)
        plain = quantizer(layer.weight)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(quantizer(layer.weight), plain)
        half = layer.weight.detach().bfloat16()
        assert torch.equal(quantizer(half), quantizer.encode(half).decode())


@pytest.mark.parametrize("reference", ["core/int(bits=4)", "core/int(bits=4, dynamic=False)", "bitnet/ternary"])
def test_compiled_and_exported_quantizers_are_torchs_own_operations(reference: str) -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    quantizer = make_quantizer(reference)
    quantizer.initialize(x)
    wanted = quantizer(x)
    assert torch.equal(torch.compile(quantizer, backend="aot_eager", fullgraph=True)(x), wanted)
    program = torch.export.export(quantizer, (x,))
    assert torch.equal(program.module()(x), wanted)
    assert not any("qcore_cpu" in str(node.target) for node in program.graph.nodes)


def test_a_copied_model_trains_on(isa: str) -> None:
    quantizer = make_quantizer("core/int(bits=4)")
    x = torch.randn(3, 4)
    assert torch.equal(copy.deepcopy(quantizer)(x), quantizer(x))


def test_a_learned_scale_is_served(isa: str) -> None:
    from qcore.backends.training import ChosenKernels

    x = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    results = []
    for kernels in (None, ChosenKernels()):
        leaf, scale = x.clone().requires_grad_(), torch.full((5, 1), 0.2).requires_grad_()
        y = learned_scale(leaf, scale, -7, 7, kernels)
        (y**2).sum().backward()
        results.append((y.detach(), leaf.grad, scale.grad))
    (y, dx, dscale), (fused_y, fused_dx, fused_dscale) = results
    assert torch.equal(y, fused_y) and torch.equal(dx, fused_dx)  # type: ignore[arg-type]
    assert torch.allclose(dscale, fused_dscale, rtol=2.0**-22)  # type: ignore[arg-type]


OPS = {
    "round_over_range": (training_ops.round_over_range_op, (4, False, 0.0)),
    "round_to_grid": (training_ops.round_to_grid_op, (torch.full((3, 1), 0.1), -7.0, 7.0, None, torch.ones(1, 1))),
    "round_to_sign": (training_ops.round_to_sign_op, (torch.ones(3, 1), None)),
    "slice_sums": (training_ops.slice_sums_op, (True,)),
    "mask_gradient": (training_ops.mask_gradient_op, (torch.ones(3, 20), torch.zeros(1, 1), torch.ones(1, 1))),
    "learned_scale_gradients": (
        training_ops.learned_scale_gradients_op,
        (torch.ones(3, 20), torch.full((3, 1), 0.1), -7.0, 7.0),
    ),
}


@pytest.mark.parametrize("name", OPS)
def test_the_ops_pass_opcheck(name: str) -> None:
    op, rest = OPS[name]
    torch.library.opcheck(op, (torch.randn(3, 20), *rest))


@pytest.mark.parametrize("name", OPS)
def test_the_ops_refuse_what_they_cannot_read(name: str) -> None:
    op, rest = OPS[name]
    for x in (torch.randn(20), torch.randn(3, 20, dtype=torch.float64)):
        with pytest.raises(UsageError, match="float32 slices|a gradient like"):
            op(x, *rest)


def test_the_ops_refuse_scales_for_other_slices() -> None:
    with pytest.raises(UsageError, match="one float32 a slice"):
        training_ops.round_to_sign_op(torch.ones(3, 4), torch.ones(2), None)
    with pytest.raises(UsageError, match="2 to 8 bits"):
        training_ops.round_over_range_op(torch.ones(3, 4), 9, True, 0.0)
    assert torch.isnan(training_ops.round_over_range_op(torch.full((1, 2), torch.inf), 4, True, 0.0)).all()
