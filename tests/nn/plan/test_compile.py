"""Plans: what they compute, what they refuse, and what they leave alone."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

import qcore
from qcore.backends import Backend, Kernel, KernelRequest, Probe, memory
from qcore.backends.plan import Program
from qcore.errors import BackendError, UsageError
from qcore.nn import Plan, build_model
from qcore.nn.plan import compile as compile_module
from qcore.plugins import Framework
from qcore.registry import BackendSpec, Registry
from qcore.tensor import QTensor

INPUT = "core/int(bits=8, granularity='token')"
BITS4 = {"weight": "core/int(bits=4)", "input": INPUT}
REFERENCE = "core/reference"


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def packed(model: nn.Module, rules: dict[str, Any] | None = None, backend: str = REFERENCE) -> nn.Module:
    return qcore.pack(qcore.quantize(model.eval(), rules or {"*": BITS4}), backend)


def mlp(**options: object) -> nn.Module:
    config = {"in_features": 12, "out_features": 3, "hidden": (10, 8), **options}
    return packed(build_model("core/mlp", config), {"head": None, "*": BITS4})


def cnn() -> nn.Module:
    config = {"in_channels": 2, "out_features": 3, "image_size": 9, "width": 4, "blocks": 2, "rescale": True}
    return packed(build_model("core/cnn", config), {"head": None, "*": BITS4})


def float_stem() -> nn.Module:
    stem = nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2), groups=2)
    return packed(nn.Sequential(stem, nn.ReLU(), nn.Conv2d(6, 3, 3)), {"0": None, "*": BITS4})


def strip() -> nn.Module:
    return packed(
        nn.Sequential(
            nn.Conv2d(2, 5, 3, padding=1),
            nn.BatchNorm2d(5),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1, ceil_mode=True),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(0.5),
            nn.Linear(5, 6),
            nn.BatchNorm1d(6),
            nn.Linear(6, 4),
        ),
        {"9": None, "*": BITS4},
    )


MODELS: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (mlp, (12,)),
    (lambda: mlp(standardize=False, rescale=True, pre_norm=False), (12,)),
    (cnn, (2, 9, 9)),
    (cnn, (2, 12, 7)),
    (strip, (2, 8, 8)),
    (float_stem, (4, 9, 9)),
]


@pytest.mark.parametrize(("make", "shape"), MODELS)
@pytest.mark.parametrize("rows", [0, 1, 5])
def test_the_reference_plan_equals_the_packed_model_bit_for_bit(make, shape, rows):
    model, x = make(), normal(rows, *shape)
    plan = qcore.compile_plan(model, REFERENCE)
    y = plan(x)
    assert torch.equal(y, model(x)) and not y.requires_grad


def test_the_model_is_left_alone_and_the_plan_keeps_its_numbers():
    model, x = mlp(), normal(4, 12)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plan = qcore.compile_plan(model, REFERENCE)
    expected = plan(x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        model.head.weight.zero_()
        model.blocks[0].post_norm.weight.zero_()
    assert torch.equal(plan(x), expected)


def test_a_copy_computes_the_same():
    plan, x = qcore.compile_plan(mlp(), REFERENCE), normal(4, 12)
    inside = copy.deepcopy(nn.Sequential(plan))
    assert torch.equal(copy.deepcopy(plan)(x), plan(x)) and torch.equal(inside(x), plan(x))


def test_a_plan_is_not_saved(tmp_path):
    plan = qcore.compile_plan(mlp(), REFERENCE)
    for save in (
        lambda: pickle.dumps(plan),
        plan.state_dict,
        lambda: qcore.save(plan, tmp_path / "plan.safetensors"),
        lambda: qcore.save(nn.Sequential(plan), tmp_path / "plan.safetensors"),
    ):
        with pytest.raises(UsageError, match="cannot be saved"):
            save()
    assert list(tmp_path.iterdir()) == []


def test_a_plan_has_no_training_mode_and_stays_on_its_device():
    plan = qcore.compile_plan(mlp(), REFERENCE)
    assert list(plan.parameters()) == [] and not plan.training
    assert plan.to("cpu") is plan and plan.half() is plan
    with pytest.raises(UsageError, match="stays on cpu"):
        plan.to("meta")
    model, x = mlp(dropout=0.5), normal(2, 12)
    assert torch.equal(qcore.compile_plan(model, REFERENCE).train()(x), model(x))


def test_a_plan_lies_where_its_layers_do():
    experts = [nn.Linear(6, 3, device="meta"), nn.Linear(6, 3, device="meta")]
    mixture = qcore.nn.MixtureOfExperts(experts, qcore.get("router", "core/uniform", in_features=6, experts=2)).eval()
    plan = qcore.compile_plan(mixture, REFERENCE)
    assert plan.device == torch.device("meta")
    assert {step.numbers.device for step in plan.program.walk() if step.title == "constant"} == {plan.device}
    assert qcore.compile_plan(mixture.router, REFERENCE).device == torch.device("cpu")
    mixed = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3, device="meta")).eval()
    with pytest.raises(UsageError, match="lie on one device, not 0 on cpu, 2 on meta"):
        qcore.compile_plan(mixed, REFERENCE)


@pytest.mark.parametrize(
    "bad",
    [
        torch.zeros(2, 12, dtype=torch.float64),
        torch.zeros(2, 12, dtype=torch.int64),
        torch.zeros(2, 12, device="meta"),
        torch.zeros(12),
        torch.zeros(()),
        torch.zeros(2, 11),
        torch.zeros(2, 13, 12),
        [[0.0] * 12],
        None,
    ],
)
def test_what_does_not_fit_is_a_usage_error(bad):
    with pytest.raises(UsageError):
        qcore.compile_plan(mlp(), REFERENCE)(bad)


@pytest.mark.parametrize("shape", [(1, 3, 9, 9), (1, 2, 9), (1, 2), (1, 2, 9, 9, 9)])
def test_images_that_do_not_fit_are_a_usage_error(shape):
    with pytest.raises(UsageError, match="takes"):
        qcore.compile_plan(cnn(), REFERENCE)(torch.zeros(shape))


def test_the_layer_that_an_input_does_not_fit_is_named():
    model = packed(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)))
    plan = qcore.compile_plan(model, REFERENCE)
    assert plan(torch.zeros(1, 1, 4, 4)).shape == (1, 2)
    with pytest.raises(UsageError, match=r"^2 \(packed linear\) takes 8 features, not \(rows, 18\)"):
        plan(torch.zeros(1, 1, 5, 5))


def test_any_number_of_image_sizes_is_served(monkeypatch):
    monkeypatch.setattr(compile_module, "_SHAPES_HELD", 2)
    model = cnn()
    plan = qcore.compile_plan(model, REFERENCE)
    for size in (8, 9, 10, 8, 11):
        x = normal(1, 2, size, size)
        assert torch.equal(plan(x), model(x))


def test_compile_and_export_are_told_to_take_the_packed_model():
    plan = qcore.compile_plan(mlp(), REFERENCE)
    with pytest.raises(Exception, match="give them the packed model"):
        torch.export.export(plan, (normal(2, 12),), strict=False)


@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_traces_and_dispatch_modes_are_told_to_take_the_packed_model(pre_dispatch):
    model, x = mlp(), normal(2, 12)
    plan = qcore.compile_plan(model, REFERENCE)
    with pytest.raises(UsageError, match="give them the packed model"):
        torch.jit.trace(plan, (x,), check_trace=False)
    with pytest.raises(UsageError, match="give them the packed model"):
        make_fx(plan, pre_dispatch=pre_dispatch)(x)
    with FlopCounterMode(display=False), pytest.raises(UsageError, match="give them the packed model"):
        plan(x)
    assert torch.equal(plan(x), model(x))


def test_a_plan_runs_where_torch_does_not_tell_of_dispatch_modes(monkeypatch):
    monkeypatch.setattr(memory, "_count_dispatch_modes", memory._one)
    model, x = mlp(), normal(2, 12)
    assert torch.equal(qcore.compile_plan(model, REFERENCE)(x), model(x))


def test_explain_lists_each_step_with_what_is_fused_into_it():
    plan = qcore.compile_plan(strip(), REFERENCE)
    rows = qcore.explain(nn.Sequential(plan)).rows
    assert [(row["layer"], row["op"], row["bits"]) for row in rows] == [
        ("0", "packed conv2d + batch norm + relu", "4"),
        ("3", "max pool", "-"),
        ("4", "mean over space", "-"),
        ("5", "flatten", "-"),
        ("7", "packed linear + batch norm", "4"),
        ("9", "float linear", "-"),
    ]
    assert {row["backend"] for row in rows} == {REFERENCE}
    assert "packed conv2d + batch norm + relu" in str(qcore.explain(plan))
    assert "6 steps" in repr(plan)


class Small(Backend):
    """A backend that compiles plans of one step alone."""

    name, priority = "small", 50

    def probe(self) -> Probe:
        return Probe(True, "cpu")

    def reject(self, request: KernelRequest) -> str:
        return "it runs no layers"

    def prepare(self, request: KernelRequest, weight: QTensor, bias: Tensor | None) -> Kernel:
        raise AssertionError

    def compile(self, program: Program) -> Any:
        return "more than one step" if len(program.steps) > 1 else lambda shape: program


@pytest.fixture
def registry() -> Registry:
    registry = Framework(no_plugins=True).registry
    spec = BackendSpec(name="small", target=f"{__name__}:Small", summary="compiles one step")
    registry.commit([spec], plugin="test")
    return registry


def test_the_best_backend_that_can_compiles_and_a_refusal_is_told(registry):
    one, many = nn.Sequential(nn.ReLU()).eval(), nn.Sequential(nn.ReLU(), nn.Flatten()).eval()
    plan = qcore.compile_plan(one, registry=registry)
    assert (plan.backend, plan.refused) == ("test/small", ())
    with pytest.warns(UserWarning, match="test/small does not compile this plan: more than one step"):
        plan = qcore.compile_plan(many, registry=registry)
    assert plan.backend == REFERENCE
    assert qcore.explain(plan).rows[0]["refused"][0]["reason"] == "more than one step"
    with pytest.raises(BackendError, match="the named backend cannot compile this plan: .*more than one step"):
        qcore.compile_plan(many, "test/small", registry=registry)


def test_a_plan_of_nothing_gives_its_input():
    x = normal(3, 4)
    plan = qcore.compile_plan(nn.Identity().eval(), REFERENCE)
    assert isinstance(plan, Plan) and torch.equal(plan(x), x)
