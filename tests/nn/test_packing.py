"""pack and explain: what is stored and run is what was evaluated."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import qcore
from qcore.backends import Kernel, KernelRequest, Probe
from qcore.backends.reference import ReferenceBackend
from qcore.errors import BackendError, CalibrationError, QuantizationError, UnknownNameError
from qcore.nn import MixtureOfExperts, PackedLinear, build_model, calibrate, explain, pack, quantize
from qcore.plugins import Framework
from qcore.registry import BackendSpec, Registry
from qcore.routers import Router, RouterConfig, Routing
from qcore.tensor import QTensor

TOKEN = "core/int(granularity='token')"
STATIC = "core/int(granularity='tensor', dynamic=False)"
INT4 = {"*": {"weight": "core/int(bits=4)", "input": TOKEN}}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def filled(model: nn.Module, seed: int = 1) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    return model


def mlp() -> Any:
    return filled(nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)))


def equal(model: nn.Module, x: torch.Tensor) -> bool:
    """Return whether the packed model gives the eval outputs bit for bit; on the reference, float sums too."""
    evaluated, packed = model.eval()(x), pack(model, "reference")(x)
    assert evaluated.dtype == packed.dtype
    assert torch.isfinite(packed).all()
    return torch.equal(evaluated, packed)


WEIGHTS = st.builds(
    "core/int(bits={}, granularity='{}', {})".format,
    st.integers(2, 8),
    st.sampled_from(["tensor", "row"]),
    st.sampled_from(["", "symmetric=False", "scale='mse'"]),
)
GROUPED = st.builds(
    "core/int(bits={}, granularity='group', group_size={})".format, st.integers(1, 8), st.integers(1, 9)
)
ONE_BIT = st.sampled_from(["core/int(bits=1)", "core/int(bits=1, granularity='tensor')"])
INPUTS = st.sampled_from(
    [
        None,
        TOKEN,
        "core/int(bits=8)",
        "core/int(bits=5, granularity='token', symmetric=False)",
        "core/int(bits=1, granularity='token')",
        "core/int(bits=4, granularity='token', scale='percentile', percentile=90)",
        "core/int(granularity='tensor')",
        STATIC,
        "core/int(granularity='tensor', dynamic=False, symmetric=False, scale='percentile')",
    ]
)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])


@settings(max_examples=100)
@given(
    weight=st.one_of(WEIGHTS, GROUPED, ONE_BIT),
    inputs=INPUTS,
    dtype=DTYPES,
    bias=st.booleans(),
    shape=st.sampled_from([(0, 12), (1, 12), (5, 12), (2, 3, 12), (2, 2, 3, 12), (12,)]),
)
def test_packed_linear_layers_equal_eval_bit_for_bit(
    weight: str, inputs: str | None, dtype: torch.dtype, bias: bool, shape: tuple[int, ...]
) -> None:
    layer = filled(nn.Linear(12, 7, bias=bias)).to(dtype)
    model = calibrate(quantize(layer, {"*": {"weight": weight, "input": inputs}}), [normal(9, 12, seed=3).to(dtype)])
    assert equal(model, normal(*shape).to(dtype))


CONVS: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"dilation": 2, "padding": (2, 1)},
    {"groups": 2},
    {"groups": 4, "out_channels": 4},
    {"groups": 4, "out_channels": 8, "stride": (2, 1)},
    {"padding": 1, "padding_mode": "reflect"},
    {"padding": (2, 1), "padding_mode": "circular"},
    {"padding": 1, "padding_mode": "replicate", "groups": 4},
    {"padding": "same"},
    {"bias": False, "kernel_size": (1, 3)},
]


@settings(max_examples=80)
@given(
    options=st.sampled_from(CONVS),
    weight=st.one_of(WEIGHTS, GROUPED, ONE_BIT),
    inputs=INPUTS,
    dtype=DTYPES,
    shape=st.sampled_from([(0, 4, 9, 9), (1, 4, 9, 9), (3, 4, 9, 8), (4, 9, 9)]),
)
def test_packed_convolutions_equal_eval_bit_for_bit(
    options: dict[str, Any], weight: str, inputs: str | None, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    conv = filled(nn.Conv2d(**({"in_channels": 4, "out_channels": 8, "kernel_size": 3} | options))).to(dtype)
    rules = {"*": {"weight": weight, "input": inputs}}
    batches = [normal(2, 4, 9, 9, seed=3).to(dtype)]
    if inputs == "core/int(bits=8)" and len(shape) == 3:
        inputs = TOKEN
    assert equal(calibrate(quantize(conv, rules), batches), normal(*shape).to(dtype))


@pytest.mark.parametrize("name", ["core/mlp", "core/cnn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_whole_networks_equal_eval_bit_for_bit(name: str, dtype: torch.dtype) -> None:
    if name == "core/mlp":
        model, x = build_model(name, {"in_features": 9, "out_features": 4, "hidden": [16, 8]}), normal(11, 9)
    else:
        config = {"in_channels": 3, "out_features": 4, "image_size": 8, "width": 4, "blocks": 2}
        model, x = build_model(name, config), normal(3, 3, 8, 8)
    first = "blocks.0.linear" if name == "core/mlp" else "features.0"
    rules = {first: {"weight": "core/int(bits=2)", "input": STATIC}, "head": None} | INT4
    made = calibrate(quantize(model, rules).to(dtype), [x.to(dtype)])
    assert equal(made, x.to(dtype))


def test_a_mixture_packs_its_experts_and_its_router() -> None:
    config = {"in_features": 6, "experts": 3}
    router = qcore.get("router", "core/topk", **config, hidden=[5], k=2)
    experts = [filled(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), seed) for seed in range(3)]
    model = MixtureOfExperts(experts, router, nn.Linear(6, 6))
    made = quantize(model, {"router.*": {"weight": "core/int(bits=8)", "input": TOKEN}, "trunk": None} | INT4)
    assert equal(made, normal(20, 6))
    assert len(explain(pack(made)).rows) == 8


def test_pack_leaves_the_model_alone_unless_in_place() -> None:
    model = quantize(mlp(), INT4).train()
    packed = pack(model)
    assert model.training
    assert not packed.training
    assert isinstance(packed[0], PackedLinear)  # type: ignore[index]
    assert not isinstance(model[0], PackedLinear)  # type: ignore[index]
    x = normal(3, 12)
    expected = packed(x)
    assert pack(model, inplace=True) is model
    assert torch.equal(model(x), expected)


def test_only_layers_with_a_quantized_weight_are_packed() -> None:
    model = quantize(mlp(), {"0": {"input": TOKEN}, "2": "core/int(bits=4)"})
    packed: Any = pack(model)
    assert not isinstance(packed[0], PackedLinear)
    assert isinstance(packed[2], PackedLinear)
    assert equal(model, normal(4, 12))


def test_packing_refuses_a_static_range_that_was_never_set() -> None:
    with pytest.raises(CalibrationError, match=r"0\.input"):
        pack(quantize(mlp(), {"*": {"weight": "core/int", "input": STATIC}}))


def test_packing_refuses_weights_that_training_broke() -> None:
    model: Any = quantize(mlp(), INT4)
    model[2].weight.data[0, 0] = float("nan")
    with pytest.raises(QuantizationError, match=r"2\.weight"):
        pack(model)


def test_explain_says_what_runs_each_layer() -> None:
    model = quantize(mlp(), {"0": "core/int(bits=4)", "2": {"weight": "core/int(bits=2)", "input": TOKEN}})
    assert [row["backend"] for row in explain(model).rows] == ["none", "none"]
    explained = explain(pack(model, "reference"))
    assert [(row["layer"], row["op"], row["bits"], row["backend"]) for row in explained.rows] == [
        ("0", "linear", "4", "core/reference"),
        ("2", "linear", "2", "core/reference"),
    ]
    assert "integer sums" in explained.rows[1]["kernel"]
    assert "float sums" in explained.rows[0]["kernel"]
    assert str(explained).splitlines()[0].startswith("0: core/reference")
    assert "qcore.pack" in str(explain(nn.Linear(2, 2)))


class Fast(ReferenceBackend):
    """A backend of higher priority that knows 4 bits only."""

    name = "fast"
    priority = 10

    def probe(self) -> Probe:
        return Probe(True, "cpu")

    def reject(self, request: KernelRequest) -> str | None:
        return None if request.bits == (4,) else f"no kernel for {request.bits[0]} bits"

    def prepare(self, request: KernelRequest, weight: QTensor, bias: torch.Tensor | None) -> Kernel:
        kernel = super().prepare(request, weight, bias)
        return Kernel("fast int4", kernel.call, kernel.nbytes)


class Absent(Fast):
    """A backend whose device is not here."""

    name = "absent"
    priority = 20

    def probe(self) -> Probe:
        return Probe(False, "cuda", "no GPU found", {"hint": "pip install a-gpu"})


@pytest.fixture
def fakes() -> Registry:
    """Return a registry of the core's offers and the two backends above, which a plugin named ``fake`` offers."""
    registry = Framework(no_plugins=True).registry
    specs = [
        BackendSpec(name=kind.name, target=f"{__name__}:{kind.__name__}", summary="for tests")
        for kind in (Fast, Absent)
    ]
    registry.commit(specs, plugin="fake")
    return registry


def test_the_best_backend_that_can_runs_each_layer_and_the_fallback_is_reported_once(fakes: Registry) -> None:
    model = quantize(mlp(), {"0": INT4["*"], "2": {"weight": "core/int(bits=3)", "input": TOKEN}})
    with pytest.warns(UserWarning) as caught:
        packed = pack(model, registry=fakes)
    said = [str(warning.message) for warning in caught]
    assert len(said) == 1 and "fake/fast" in said[0] and "no kernel for 3 bits" in said[0]
    rows = explain(packed).rows
    assert [row["backend"] for row in rows] == ["fake/fast", "core/reference"]
    assert rows[0]["refused"] == [{"backend": "fake/absent", "reason": "no GPU found", "hint": "pip install a-gpu"}]
    assert [refusal["backend"] for refusal in rows[1]["refused"]] == ["fake/absent", "fake/fast"]
    assert "not fake/fast: no kernel for 3 bits" in str(explain(packed))
    assert torch.equal(packed(normal(3, 12)), model.eval()(normal(3, 12)))


def test_a_forced_backend_that_cannot_is_an_error_with_the_reason(fakes: Registry) -> None:
    model: Any = quantize(mlp(), {"*": "core/int(bits=3)"})
    with pytest.raises(BackendError, match="no kernel for 3 bits") as caught:
        pack(model, "fast", registry=fakes)
    assert caught.value.exit_code == 4
    with pytest.raises(BackendError, match="pip install a-gpu"):
        pack(model, "fake/absent", registry=fakes, inplace=True)
    assert not isinstance(model[0], PackedLinear)
    with pytest.raises(UnknownNameError, match="reference"):
        pack(model, "referense")


def test_a_forced_backend_is_taken_without_a_warning(fakes: Registry) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        packed = pack(quantize(mlp(), INT4), "reference", registry=fakes)
    assert {row["backend"] for row in explain(packed).rows} == {"core/reference"}


def test_the_environment_names_a_backend_and_the_argument_overrides_it(
    fakes: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = quantize(mlp(), INT4)
    monkeypatch.setenv("QCORE_BACKEND", "reference")
    assert explain(pack(model, registry=fakes)).rows[0]["backend"] == "core/reference"
    assert explain(pack(model, "fast", registry=fakes)).rows[0]["backend"] == "fake/fast"
    monkeypatch.setenv("QCORE_BACKEND", "absent")
    with pytest.raises(BackendError, match="no GPU found"):
        pack(model, registry=fakes)


def test_packing_again_chooses_the_kernels_anew(fakes: Registry) -> None:
    packed = pack(quantize(mlp(), INT4), "reference", registry=fakes)
    again = pack(packed, "fast", registry=fakes)
    assert {row["backend"] for row in explain(again).rows} == {"fake/fast"}
    assert {row["backend"] for row in explain(packed).rows} == {"core/reference"}
    assert torch.equal(again(normal(3, 12)), packed(normal(3, 12)))


def test_copies_and_moves_keep_the_backend_that_was_forced(fakes: Registry) -> None:
    packed = pack(quantize(mlp(), INT4), "reference", registry=fakes)
    for model in (copy.deepcopy(packed), copy.deepcopy(packed).to("cpu")):
        assert {row["backend"] for row in explain(model).rows} == {"core/reference"}


@pytest.fixture(params=["core/reference", "auto"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Pack on the reference, and on the best backend that is installed."""
    monkeypatch.setenv("QCORE_BACKEND", request.param)
    return str(request.param)


@pytest.mark.usefixtures("backend")
def test_packed_and_quantized_models_export(recwarn: pytest.WarningsRecorder) -> None:
    x = normal(6, 12)
    model = quantize(mlp(), INT4).eval()
    for exported_from in (model, pack(model)):
        batch = torch.export.Dim("batch")
        program = torch.export.export(exported_from, (x,), dynamic_shapes=({0: batch},))
        assert torch.equal(program.module()(x[:3]), exported_from(x[:3]))


@pytest.mark.slow
@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("layer", [nn.Linear(30, 20), nn.Conv2d(2, 4, 3, padding=1)], ids=["linear", "conv"])
def test_packed_and_training_layers_compile_without_a_graph_break(layer: nn.Module) -> None:
    from shutil import which

    if which("g++") is None and which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    model = quantize(filled(layer), INT4)
    x = normal(5, 30) if isinstance(layer, nn.Linear) else normal(5, 2, 9, 9)
    packed = pack(model)
    assert torch.equal(torch.compile(packed, fullgraph=True)(x), packed(x))
    trained = torch.compile(model.train(), fullgraph=True)(x)
    assert torch.allclose(trained, model(x), atol=1e-4)
    trained.sum().backward()
    assert layer.weight.grad is None
    assert model.weight.grad is not None


class Fixed(Router):
    """Sends every row to the expert whose index is the row's first feature."""

    def forward(self, x: torch.Tensor) -> Routing:
        weights = torch.nn.functional.one_hot(x[:, 0].long(), self.experts).float()
        return Routing(weights, weights)


def test_experts_of_several_precisions_pack_side_by_side() -> None:
    model = MixtureOfExperts([mlp() for _ in range(3)], Fixed(RouterConfig(in_features=12, experts=3)))
    rules = {f"experts.{i}.*": {"weight": f"core/int(bits={bits})", "input": TOKEN} for i, bits in enumerate([1, 4, 8])}
    made = quantize(model, rules)
    x = normal(9, 12)
    x[:, 0] = torch.arange(9) % 3
    assert equal(made, x)
    assert [row["bits"] for row in explain(pack(made)).rows] == ["1", "1", "4", "4", "8", "8"]
