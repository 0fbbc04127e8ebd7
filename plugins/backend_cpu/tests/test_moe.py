"""``moe_linear``: the packed experts of a mixture on grouped rows, in one call."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import qcore
from qcore.backends.plan.routing import combine
from qcore.errors import UsageError
from qcore.nn import MixtureOfExperts, PackedLinear, init
from qcore_backend_cpu import experts as experts_module
from qcore_backend_cpu.ops import moe_linear_op
from qcore_backend_cpu.testing import same

CPU = "backend_cpu/cpu"
INPUT = "core/int(bits=8, granularity='token')"
WIDTHS = ("bitnet/ternary", "core/int(bits=4)", "core/int(bits=8)")


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mixture(router: str = "core/topk", backend: str = CPU, **options: object) -> MixtureOfExperts:
    generator = torch.Generator().manual_seed(0)
    layers = [init.linear(30, 20, generator) for _ in WIDTHS]
    model = MixtureOfExperts(layers, qcore.get("router", router, in_features=30, experts=3, **options))
    rules = {f"experts.{i}": {"weight": weight, "input": INPUT} for i, weight in enumerate(WIDTHS)}
    packed = qcore.pack(qcore.quantize(model.eval(), rules), backend)
    assert isinstance(packed, MixtureOfExperts)
    return packed


def loop(model: MixtureOfExperts, x: Tensor) -> Tensor:
    return combine(list(model.experts), x, model.router(x).weights)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count the rows of each call of the kernel."""
    seen: list[int] = []
    real: Callable[..., Tensor] = experts_module.run_moe_linear

    def counting(x: Tensor, *rest: object) -> Tensor:
        seen.append(len(x))
        return real(x, *rest)

    monkeypatch.setattr(experts_module, "run_moe_linear", counting)
    return seen


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.sampled_from([0, 1, 2, 7, 64, 300]), k=st.integers(1, 3), seed=st.integers(0, 99))
def test_grouped_rows_equal_the_loop_over_experts(isa: str, rows: int, k: int, seed: int) -> None:
    model, x = mixture(k=k), normal(rows, 30, seed=seed)
    assert torch.equal(model(x), loop(model, x))


def test_all_experts_run_in_one_call(calls: list[int]) -> None:
    model, x = mixture(), normal(40, 30)
    assert torch.equal(model(x), mixture(backend="core/reference")(x))
    assert calls == [40] and min(model.visits()) > 0
    assert torch.equal(mixture("core/uniform")(x), loop(mixture("core/uniform"), x))


def test_nan_stays_in_its_row(isa: str) -> None:
    model, x = mixture(), normal(6, 30)
    clean = model(x)
    x[2, 5] = torch.nan
    y = model(x)
    assert bool(y[2].isnan().all())
    assert same(torch.cat([y[:2], y[3:]]), torch.cat([clean[:2], clean[3:]]))


def test_copies_loads_and_moves_take_their_own_kernels(calls: list[int]) -> None:
    model, x = mixture(), normal(6, 30)
    expected = model(x)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for layer in model.experts:
            layer.weight_scale.mul_(2)
            layer.bias.mul_(2)
    model.load_state_dict(model.state_dict())
    assert torch.equal(copied(x), expected)
    torch.testing.assert_close(model(x), 2 * expected)
    assert len(calls) == 3


def test_where_experts_differ_they_run_one_by_one(calls: list[int]) -> None:
    x = normal(9, 30)
    body = mixture()
    body.experts[1] = nn.Sequential(body.experts[1])
    float_one = mixture()
    float_one.experts[1] = nn.Linear(30, 20)
    hooked = mixture()
    seen: list[object] = []
    hooked.experts[0].register_forward_hook(lambda *_: seen.append(1))
    mixed = mixture()
    assert isinstance(mixed.experts[0], PackedLinear)
    mixed.experts[0] = mixture(backend="core/reference").experts[0]
    for model in (body, float_one, hooked, mixed, mixture(backend="core/reference")):
        assert torch.equal(model.eval()(x), loop(model, x))
    assert calls == [] and seen


def test_a_gradient_to_the_router_goes_through_the_loop(calls: list[int]) -> None:
    model, x = mixture(k=2), normal(9, 30)
    with torch.enable_grad():
        model(x).sum().backward()
    assert calls == [] and model.router.net[0].weight.grad.abs().sum() > 0


def block_lists() -> tuple[Tensor, Tensor, list[Tensor]]:
    model = mixture()
    x = normal(5, 30)
    blocks = [layer.choice.kernel.blocks[0] for layer in model.experts]
    return x, model.router(x).weights, blocks


def test_moe_linear_passes_opcheck() -> None:
    x, weights, blocks = block_lists()
    torch.library.opcheck(moe_linear_op, (x, weights, blocks, 20))
    torch.library.opcheck(moe_linear_op, (x[:0], weights[:0], blocks, 20))


def test_moe_linear_refuses_what_does_not_fit() -> None:
    x, weights, blocks = block_lists()
    for bad in (
        (x[0], weights, blocks, 20),
        (x, weights[:, :2], blocks, 20),
        (x, weights[:2], blocks, 20),
        (x, weights, [], 20),
        (x, weights, blocks, 21),
        (x[:, :29], weights, blocks, 20),
        (x, weights, [blocks[0], blocks[1], torch.zeros(9, dtype=torch.uint8)], 20),
    ):
        with pytest.raises(UsageError):
            moe_linear_op(*bad)
    with pytest.raises(UsageError):
        mixture().combine(normal(3, 29), mixture().router(normal(3, 30)))


def test_compile_without_graph_breaks_gives_equal_outputs() -> None:
    model, x = mixture(), normal(8, 30)
    expected = model(x)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), expected)


@pytest.mark.parametrize("weights_dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_than_float32_run_one_by_one(
    calls: list[int], dtype: torch.dtype, weights_dtype: torch.dtype
) -> None:
    model, x = mixture(k=2), normal(40, 30).to(dtype)
    routing = model.router(x.float())
    weights = (routing.weights * 0.7).to(weights_dtype)
    y = model.combine(x, replace(routing, weights=weights))
    assert torch.equal(y, combine(list(model.experts), x, weights))
    assert bool(calls) == (dtype is weights_dtype is torch.float32)


def test_a_trunk_that_changes_the_number_of_rows_is_a_usage_error() -> None:
    class Halves(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[::2]

    model = mixture()
    model.trunk = Halves()
    with pytest.raises(UsageError, match="3 experts take"):
        model(normal(64, 30))


@pytest.mark.parametrize(
    "weights",
    [torch.ones(5, 3), torch.ones(7, 3), torch.ones(6, 2), torch.ones(18), torch.ones(6, 3, device="meta")],
    ids=["too few rows", "too many", "too few experts", "flat", "elsewhere"],
)
def test_weights_that_do_not_fit_are_a_usage_error(weights: Tensor) -> None:
    run = mixture()._grouped()
    assert run is not None
    with pytest.raises(UsageError, match="experts"):
        run(normal(6, 30), weights)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize(
    "record",
    [lambda run, given: torch.jit.trace(run, given), lambda run, given: make_fx(run)(*given)],
    ids=["jit.trace", "make_fx"],
)
def test_traced_experts_compute_what_they_do(record: Callable[..., Callable[..., Tensor]]) -> None:
    model, x, other = mixture(), normal(8, 30), normal(8, 30, seed=1)
    run = model._grouped()
    assert run is not None
    traced = record(run, (x, model.router(x).weights))
    weights = model.router(other).weights
    assert torch.equal(traced(other, weights), run(other, weights))
