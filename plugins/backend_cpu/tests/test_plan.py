"""Compiled plans against their definition in torch, step by step and whole, on every instruction set that runs here."""

from __future__ import annotations

import gc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qcore
from qcore.backends.plan import Value
from qcore.errors import BackendError, UsageError
from qcore.nn import MLP, MixtureOfExperts, PlanBuilder, build_model
from qcore.nn.config import MLPConfig
from qcore.tensor.arithmetic import Conv2dShape
from qcore_backend_cpu.testing import same

CPU = "backend_cpu/cpu"
INPUT = "core/int(bits=8, granularity='token')"
BITS4 = {"weight": "core/int(bits=4)", "input": INPUT}
SLACK = dict(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def packed(model: nn.Module, rules: dict[str, Any]) -> nn.Module:
    return qcore.pack(qcore.quantize(model.eval(), rules), CPU)


def image_net(generator: torch.Generator, *, norms: bool = False) -> nn.Module:
    """Return packed layers, ReLUs, max pools and a flatten; 7 x 10 images of 3 channels."""
    parts: list[nn.Module] = [nn.Conv2d(3, 10, 3, padding=1), nn.ReLU()]
    parts += [nn.Conv2d(10, 6, (3, 2), stride=(1, 2), groups=2), *[nn.BatchNorm2d(6)] * norms, nn.ReLU()]
    parts += [nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1, ceil_mode=True), nn.Flatten()]
    parts += [nn.Linear(24, 17), *[nn.BatchNorm1d(17)] * norms, nn.ReLU(), nn.Linear(17, 5)]
    model = nn.Sequential(*parts)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                low = 0.1 if tensor.dim() == 1 else -1.0
                tensor.uniform_(low, 1, generator=generator)
    return model


def mixture(k: int = 1) -> nn.Module:
    """Return three experts of different precision behind a float64 router."""
    config = MLPConfig(in_features=21, out_features=7, hidden=(33, 18), standardize=False)
    experts = [MLP(config, torch.Generator().manual_seed(i)) for i in range(3)]
    router = qcore.get("router", "core/topk", in_features=21, experts=3, k=k, hidden=(19,))
    with torch.no_grad():
        router.net[2].weight.mul_(4)
    rules = {"experts.*.head": None}
    for i, weight in enumerate(("bitnet/ternary", "core/int(bits=4)", "core/int(bits=8)")):
        rules[f"experts.{i}.*"] = {"weight": weight, "input": INPUT}
    return packed(MixtureOfExperts(experts, router), rules)


@settings(**SLACK)
@given(seed=st.integers(0, 1000), rows=st.integers(0, 9), bits=st.integers(2, 8), static=st.booleans())
def test_packed_layers_relu_pool_and_flatten_are_bit_exact(
    isa: str, seed: int, rows: int, bits: int, static: bool
) -> None:
    inputs = "core/int(bits=8, granularity='tensor', dynamic=False)" if static else INPUT
    quantized = qcore.quantize(
        image_net(torch.Generator().manual_seed(seed)), {"*": {"weight": f"core/int(bits={bits})", "input": inputs}}
    )
    x = normal(rows, 3, 7, 10, seed=seed)
    model = qcore.pack(qcore.calibrate(quantized, [normal(4, 3, 7, 10)]), CPU)
    plan = qcore.compile_plan(model, CPU)
    assert torch.equal(plan(x), model(x))
    assert torch.equal(plan(x.to(memory_format=torch.channels_last)), model(x))


def test_batch_norms_round_once(isa: str) -> None:
    model = packed(image_net(torch.Generator().manual_seed(3), norms=True), {"*": BITS4})
    plan, x = qcore.compile_plan(model, CPU), normal(20, 3, 7, 10)
    assert "packed conv2d + batch norm + relu" in str(qcore.explain(plan))
    assert qcore.explain(plan).rows[0]["backend"] == CPU
    # A code on the edge of a step may fall to its other side after a float that was rounded otherwise.
    torch.testing.assert_close(plan(x), model(x), rtol=0.02, atol=0.02 * float(model(x).abs().max()))


Build = Callable[[PlanBuilder, Value], Value]
NORM = (normal(13), normal(13, seed=1).abs() + 0.1, normal(13, seed=2), normal(13, seed=3))
STEPS: dict[str, tuple[tuple[int, ...], Build]] = {
    "linear": ((13,), lambda b, x: b.linear(x, normal(70, 13), normal(70, seed=1))),
    "linear of tokens": ((5, 13), lambda b, x: b.relu(b.linear(x, normal(1, 13)))),
    "wide linear": ((300,), lambda b, x: b.linear(x, normal(150, 300) / 17, normal(150, seed=1))),
    "narrow linear": ((1,), lambda b, x: b.linear(x, normal(17, 1))),
    "layer norm": ((13,), lambda b, x: b.layer_norm(x, normal(13), normal(13, seed=1), 13, 1e-5)),
    "layer norm of tokens": ((3, 640), lambda b, x: b.relu(b.layer_norm(x, None, None, 640, 1e-3))),
    "batch norm": ((13,), lambda b, x: b.batch_norm(x, *NORM, 1e-5)),
    "batch norm of images": ((13, 3, 5), lambda b, x: b.relu(b.batch_norm(x, *NORM[:2], None, None, 1e-5))),
    "standardize": ((13,), lambda b, x: b.standardize(x, *NORM[:2])),
    "standardize images": ((13, 4, 5), lambda b, x: b.standardize(x, *NORM[:2])),
    "rescale": ((13,), lambda b, x: b.rescale(x, torch.tensor(0.3), torch.tensor(1.7))),
    "relu": ((13, 3), lambda b, x: b.relu(x)),
    "add": ((13, 3), lambda b, x: b.add(x, b.relu(x))),
    "add to itself": ((13,), lambda b, x: b.relu(b.add(x, x))),
    "add what was added": ((13, 3), lambda b, x: b.add(b.add(b.relu(x), x), b.relu(b.add(x, x)))),
    "mean over space": ((13, 3, 7), lambda b, x: b.spatial_mean(x)),
    "kept mean over space": ((13, 3, 7), lambda b, x: b.flatten(b.spatial_mean(x, keep=True))),
    "max pool": ((3, 9, 8), lambda b, x: b.max_pool(x, (3, 2), (2, 1), (1, 1), (1, 2), ceil=True)),
    "even max pool": ((3, 8, 70), lambda b, x: b.max_pool(x, (2, 2), (2, 2), (0, 0), (1, 1), ceil=False)),
    "odd max pool": ((3, 7, 9), lambda b, x: b.max_pool(x, (2, 2), (2, 2), (0, 0), (1, 1), ceil=True)),
    "convolution": (
        (4, 9, 20),
        lambda b, x: b.relu(b.convolution(x, normal(6, 2, 3, 2), normal(6), Conv2dShape((2, 1), (1, 2), (1, 2), 2))),
    ),
    "narrow convolution": ((1, 3, 3), lambda b, x: b.convolution(x, normal(1, 1, 1, 1), None, Conv2dShape())),
    "constant": ((13,), lambda b, x: b.constant(x, normal(3))),
    "nothing": ((13,), lambda b, x: x),
    "flatten alone": ((2, 3, 4), lambda b, x: b.flatten(x)),
}
EXACT = {
    "standardize",
    "standardize images",
    "rescale",
    "relu",
    "add",
    "add to itself",
    "add what was added",
    "max pool",
    "even max pool",
    "odd max pool",
    "constant",
}
EXACT |= {"nothing", "flatten alone"}


def both(build: Build, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Module]:
    class Given(nn.Module):
        def plan(self, builder: PlanBuilder, x: Value) -> Value:
            return build(builder, x)

    return qcore.compile_plan(Given().eval(), CPU), qcore.compile_plan(Given().eval(), "core/reference")


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("rows", [0, 1, 2, 7, 100])
def test_each_float_step_is_within_its_bound(isa: str, name: str, rows: int) -> None:
    shape, build = STEPS[name]
    ours, reference = both(build, shape)
    x = normal(rows, *shape, seed=5)
    y, expected = ours(x), reference(x)
    assert y.shape == expected.shape and y.dtype is torch.float32
    bound = sum(step.bound for step in ours.program.steps)
    assert (bound == 0) == (name in EXACT)
    if rows:
        assert (y - expected).abs().max() <= bound * expected.abs().max()
        assert torch.equal(ours(x[:1]), y[:1])  # a row does not depend on its batch


@pytest.mark.parametrize("name", STEPS)
def test_nan_stays_in_its_sample_in_each_step(isa: str, name: str) -> None:
    shape, build = STEPS[name]
    ours, reference = both(build, shape)
    x = normal(3, *shape)
    clean = ours(x)
    x[1].view(-1)[-1] = torch.nan
    assert same(ours(x)[::2], clean[::2])
    assert torch.equal(ours(x).isnan(), reference(x).isnan())


@pytest.mark.parametrize("kind", ["mutual_information", "variance"])
@pytest.mark.parametrize("passes", [1, 6])
def test_a_router_of_masked_passes_chooses_as_its_definition(isa: str, kind: Any, passes: int) -> None:
    masks = (torch.rand(passes, 9, generator=torch.Generator().manual_seed(1)) < 0.7).double() / 0.7

    def build(b: PlanBuilder, x: Value) -> Value:
        hidden = b.masked(b.relu(b.linear(x, normal(9, 13), normal(9, seed=4), precise=True)), masks)
        p = b.softmax(b.linear(b.masked(hidden, masks), normal(4, 9, seed=2), precise=True))
        u = b.normalise(b.disagreement(p, kind), 0.01, 0.3)
        return b.choose(b.tilt(b.pass_mean(p), u, torch.tensor([0.0, 1, 2, 3]), torch.tensor([0.0, 0, 0.1, 0])), 2)

    ours, reference = both(build, (13,))
    x = normal(200, 13)
    assert torch.equal(ours(x) > 0, reference(x) > 0)
    torch.testing.assert_close(ours(x), reference(x), rtol=2**-22, atol=0)
    x[3, 2] = torch.nan
    assert ours(x)[3].isnan().any() and torch.equal(ours(x)[4:], ours(x[4:]))


@pytest.mark.parametrize("k", [1, 2])
def test_a_mixture_routes_as_eager_and_agrees(isa: str, k: int) -> None:
    model = mixture(k)
    plan, route = qcore.compile_plan(model, CPU), qcore.compile_plan(model.router, CPU)
    for rows in (0, 1, 2, 150):
        x = normal(rows, 21, seed=rows)
        expected = model(x)
        assert torch.equal(route(x) > 0, model.router(x).weights > 0)
        # As above: two layer norms may each move a code by one step of 127.
        torch.testing.assert_close(plan(x), expected, rtol=0.03, atol=0.03)
        for row in range(min(rows, 20)):
            assert torch.equal(plan(x[row : row + 1])[0], plan(x)[row])
    assert min(model.visits()) > 0


def test_nan_in_one_row_of_a_mixture_reaches_no_other(isa: str) -> None:
    plan, x = qcore.compile_plan(mixture(), CPU), normal(9, 21)
    clean = plan(x)
    x[4, 3] = torch.nan
    y = plan(x)
    assert bool(y[4].isnan().all())
    assert torch.equal(torch.cat([y[:4], y[5:]]), torch.cat([clean[:4], clean[5:]]))


def test_a_plan_outlives_its_model_and_its_copies(isa: str) -> None:
    model, x = mixture(), normal(5, 21)
    plan = qcore.compile_plan(model, CPU)
    expected = plan(x).clone()
    run = plan._runners[torch.Size((21,))]
    del model, plan
    gc.collect()
    trash = [torch.full((1 << 16,), torch.nan) for _ in range(20)]
    assert torch.equal(run(x), expected)
    del trash


def test_eight_callers_at_once_get_the_same(isa: str, threads: int) -> None:
    model = packed(image_net(torch.Generator().manual_seed(0)), {"*": BITS4})
    cases = [(qcore.compile_plan(model, CPU), normal(rows, 3, 7, 10)) for rows in (1, 30)]
    cases += [(qcore.compile_plan(mixture(), CPU), normal(rows, 21)) for rows in (1, 70)]
    expected = [plan(x) for plan, x in cases]

    def work(_: int) -> bool:
        return all(torch.equal(plan(x), y) for _ in range(4) for (plan, x), y in zip(cases, expected, strict=True))

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


def test_many_chunks_on_many_threads_give_the_same(isa: str, threads: int) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 48 * 48, 3))
    model = packed(model, {"*": BITS4})
    x = normal(90, 1, 48, 48)
    assert torch.equal(qcore.compile_plan(model, CPU)(x), model(x))
    wide = nn.Sequential(nn.Linear(600, 900), nn.ReLU(), nn.Linear(900, 40)).eval()
    x = normal(301, 600)
    torch.testing.assert_close(qcore.compile_plan(wide, CPU)(x), wide(x), rtol=1e-4, atol=1e-5)


def test_weight_only_layers_are_within_their_bound(isa: str) -> None:
    model = packed(nn.Sequential(nn.Linear(40, 30), nn.ReLU()), {"*": "core/int(bits=4)"})
    plan, x = qcore.compile_plan(model, CPU), normal(6, 40)
    torch.testing.assert_close(plan(x), model(x), rtol=1e-5, atol=1e-5)


def test_core_networks_compile(isa: str) -> None:
    model = build_model("core/cnn", {"in_channels": 3, "out_features": 4, "image_size": 9, "width": 5})
    model = packed(model, {"features.0": None, "head": None, "*": BITS4})
    x = normal(4, 3, 9, 9)
    torch.testing.assert_close(qcore.compile_plan(model, CPU)(x), model(x), rtol=0.03, atol=0.03)


def test_what_it_cannot_compile_it_refuses_with_a_reason() -> None:
    image = nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten())
    groups = {"weight": "core/int(bits=4, granularity='group', group_size=9)", "input": "core/int(granularity='token')"}
    with pytest.warns(UserWarning, match="no convolution with scales for groups"):
        model = qcore.pack(qcore.quantize(image.eval(), {"0": groups}))
    with pytest.raises(BackendError, match="0 runs on another backend's kernel"):
        qcore.compile_plan(model, CPU)
    with pytest.warns(UserWarning, match="0 runs on another backend's kernel"):
        plan = qcore.compile_plan(model)
    assert plan.backend == "core/reference"
    regression = build_model("core/mlp", {"in_features": 4, "out_features": 3, "rescale": True}).eval()
    with pytest.raises(BackendError, match="rescale rescales each output by numbers of its own"):
        qcore.compile_plan(regression, CPU)
    half = packed(nn.Sequential(nn.Linear(8, 8).bfloat16()), {"*": BITS4})
    with pytest.raises(BackendError, match="plans are float32"):
        qcore.compile_plan(half, CPU)


def test_samples_of_four_axes_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match="1 to 3 axes"):
        qcore.compile_plan(nn.ReLU().eval(), CPU)(torch.zeros(1, 2, 2, 2, 2))
