"""Quantizers by the compiled kernels, on every instruction set: bit for bit what ``encode`` says."""

from __future__ import annotations

import copy
import struct
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import qcore
from qcore.backends import Grid
from qcore.backends.training import ChosenKernels
from qcore.errors import BackendError, QuantizationError, UsageError
from qcore.quantizers import Quantizer, learned_scale, make_quantizer, straight_through_inside
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
@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
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
    torch.manual_seed(0)
    rules = {"*": {"weight": "core/int(bits=4)", "input": "core/int(bits=8, granularity='token')"}}
    model = qcore.quantize(torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 2)), rules)
    x, target = torch.randn(32, 6), torch.randn(32, 2)
    _train(model, x, target)  # its kernels are chosen
    copied = copy.deepcopy(model)
    start, kept = _loss(copied, x, target), copy.deepcopy(model.state_dict())
    assert start == _loss(model, x, target)
    _train(copied, x, target)
    for quantizer in (module for module in copied.modules() if isinstance(module, Quantizer)):
        assert isinstance(quantizer.kernels.serve(x), CpuTrainingKernels)
    assert _loss(copied, x, target) < start
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QCORE_BACKEND", "reference")
        plain = copy.deepcopy(model)
        _train(plain, x, target)
    assert all(torch.equal(a, b) for a, b in zip(copied.parameters(), plain.parameters(), strict=True))


def _loss(model: torch.nn.Module, x: Tensor, target: Tensor) -> float:
    with torch.no_grad():
        return float(((model(x) - target) ** 2).mean())


def _train(model: torch.nn.Module, x: Tensor, target: Tensor) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        ((model(x) - target) ** 2).mean().backward()
        optimizer.step()


ONE = torch.ones(1, 1)
CALLS: dict[str, Callable[[CpuTrainingKernels, Tensor, Tensor], object]] = {
    "scale": lambda kernels, x, bad: kernels.round_to_grid(x, Grid(bad, -7, 7)),
    "inverse": lambda kernels, x, bad: kernels.round_to_grid(x, Grid(ONE, -7, 7, bad)),
    "zero point": lambda kernels, x, bad: kernels.round_to_grid(x, Grid(ONE, -7, 7, ONE, bad)),
    "magnitude": lambda kernels, x, bad: kernels.round_to_sign(x, bad),
    "threshold": lambda kernels, x, bad: kernels.round_to_sign(x, ONE, bad),
    "low": lambda kernels, x, bad: kernels.mask_gradient(x, x, bad, ONE),
    "high": lambda kernels, x, bad: kernels.mask_gradient(x, x, ONE, bad),
    "learned scale": lambda kernels, x, bad: kernels.learned_scale_gradients(x, x, bad, -7, 7),
    "x of a mask": lambda kernels, x, bad: kernels.mask_gradient(x, bad, ONE, ONE),
    "gradient of a mask": lambda kernels, x, bad: kernels.mask_gradient(bad, x, ONE, ONE),
    "x of a learned scale": lambda kernels, x, bad: kernels.learned_scale_gradients(x, bad, ONE, -7, 7),
    "x of a range": lambda kernels, x, bad: kernels.round_over_range(bad, 4, symmetric=True),
    "x of a grid": lambda kernels, x, bad: kernels.round_to_grid(bad, Grid(ONE, -7, 7)),
    "x of a sum": lambda kernels, x, bad: kernels.slice_sums(bad),
}
WHOLE = [name for name in CALLS if " of " in name]


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "bad", [{"device": "meta"}, {"dtype": torch.float64}, {"dtype": torch.int32}], ids=["meta", "float64", "int32"]
)
def test_what_cannot_be_read_by_its_address_is_a_usage_error(name: str, bad: dict[str, Any]) -> None:
    shape = (3, 4) if name in WHOLE else (3, 1)
    with pytest.raises(UsageError, match="in float32 on the CPU"):
        CALLS[name](CpuTrainingKernels(), torch.ones(3, 4), torch.ones(shape, **bad))


@pytest.mark.parametrize("name", CALLS)
def test_what_has_another_number_of_elements_is_a_usage_error(name: str) -> None:
    if name.endswith(("range", "grid", "sum")):
        pytest.skip("x may have any")
    with pytest.raises(UsageError, match="a gradient of|one value a slice"):
        CALLS[name](CpuTrainingKernels(), torch.ones(3, 4), torch.ones(2, 4 if name in WHOLE else 1))


@pytest.mark.parametrize("name", CALLS)
def test_a_negative_bit_counts(name: str) -> None:
    shape = (3, 4) if name in WHOLE else (3, 1)
    negative = torch._neg_view(torch.full(shape, -0.75))
    x, plain = torch.linspace(-1, 1, 12).reshape(3, 4), torch.full(shape, 0.75)
    results = [CALLS[name](CpuTrainingKernels(), x, given) for given in (negative, plain)]
    ours, theirs = (result if isinstance(result, tuple) else (result,) for result in results)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("reference", ["core/int(bits=4, dynamic=False)", "core/int(bits=1, dynamic=False)"])
def test_a_range_on_another_device_is_a_usage_error(reference: str) -> None:
    quantizer = make_quantizer(reference)
    quantizer.initialize(torch.ones(3, 4))
    with pytest.raises(UsageError, match="float32 on the CPU, not torch.float32 on meta"):
        quantizer.to("meta")(torch.ones(3, 4))


def test_an_instruction_set_that_is_not_there_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_CPU_ISA", "avx3")
    monkeypatch.delenv("QCORE_BACKEND", raising=False)
    x = torch.randn(3, 4)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("default")
        for _ in range(3):
            assert make_quantizer("core/int(bits=4)").kernels.serve(x) is None
    assert ["avx3" in str(warning.message) for warning in told] == [True]
    monkeypatch.setenv("QCORE_BACKEND", "cpu")
    with pytest.raises(BackendError, match="avx3"):
        make_quantizer("core/int(bits=4)")(x)


def test_a_learned_scale_is_served(isa: str) -> None:
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_a_range_of_any_dtype_masks_the_gradient(isa: str, dtype: torch.dtype) -> None:
    low, high = torch.tensor([[-1], [0]], dtype=dtype), torch.tensor([[0], [2]], dtype=dtype)
    x = torch.linspace(-3, 3, 12).reshape(2, 6).requires_grad_()
    straight_through_inside(x, x.detach(), low, high, ChosenKernels()).sum().backward()
    assert torch.equal(x.grad, ((x >= low) & (x <= high)).float())  # type: ignore[arg-type]


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
