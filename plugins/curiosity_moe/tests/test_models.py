from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qcore
from qcore.errors import ConfigError
from qcore.export import load, save
from qcore.nn import PackedLinear, QuantLinear, build_model
from qcore.tensor import QTensor
from qcore_curiosity_moe.experts import contenders, expert_bits, expert_name, mixture_rules, single_rules
from qcore_curiosity_moe.models import Mixture, adopt

EXPERTS = ("bitnet/ternary", "core/int(bits=4)", "core/int(bits=8)")
TOKEN = "core/int(bits=8, granularity='token')"
FEATURES = 20


def inputs(rows: int = 200) -> Tensor:
    return torch.randn(rows, FEATURES, generator=torch.Generator().manual_seed(1)) * 2 + 1


def make_mixture(experts: tuple[str, ...] = EXPERTS, *, trunk: bool = False, **options: object) -> Mixture:
    config = {
        "in_features": FEATURES,
        "out_features": 5,
        "hidden": (32, 24),
        "experts": len(experts),
        "trunk": trunk,
        "routing": {"bits": expert_bits(experts), **options},
    }
    model = build_model("curiosity_moe/mixture", config, torch.Generator().manual_seed(0))
    qcore.quantize(model, mixture_rules(experts, TOKEN, trunk=trunk), inplace=True)
    assert isinstance(model, Mixture)
    with torch.no_grad():
        model.moe.router.layer3.weight.mul_(4.0)
    model.fit_scalers(inputs(), torch.zeros(200))
    model.eval()
    model.moe.router.calibrate(model.scaler(inputs()))
    return model


@pytest.fixture(params=["core/reference", "auto"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Pack and load on the reference, and on the best backend that is installed."""
    monkeypatch.setenv("QCORE_BACKEND", request.param)
    return str(request.param)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("trunk", [False, True])
@torch.no_grad()
def test_a_packed_mixture_equals_its_eval_mode_bit_for_bit(trunk: bool) -> None:
    model = make_mixture(trunk=trunk)
    expected = model(inputs())
    assert min(model.moe.visits()) > 0
    assert torch.equal(qcore.pack(model)(inputs()), expected)


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("trunk", [False, True])
@torch.no_grad()
def test_a_saved_and_loaded_mixture_gives_the_same_outputs(tmp_path: Path, trunk: bool) -> None:
    model = make_mixture(trunk=trunk)
    save(model, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    assert torch.equal(loaded(inputs()), model(inputs()))
    assert torch.equal(loaded.moe.last_routing.probabilities, model.moe.last_routing.probabilities)


@torch.no_grad()
def test_packed_weights_unpack_to_the_codes_of_their_quantizers() -> None:
    model = make_mixture()
    packed = qcore.pack(model)
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, QuantLinear)}
    assert len(layers) == 6
    for path, layer in layers.items():
        weight = packed.get_submodule(path).weight
        assert isinstance(weight, QTensor)
        assert torch.equal(weight.unpack().codes, layer.weight_quantizer.encode(layer.weight).codes)
        assert torch.equal(weight.dequantize(), layer.weight_quantizer(layer.weight))


@torch.no_grad()
def test_the_integer_path_agrees_with_the_fake_quantized_one_to_float_rounding() -> None:
    for expert in make_mixture().moe.experts:
        x = inputs()
        integer = expert.eval()(x)
        for module in expert.modules():
            if isinstance(module, QuantLinear):
                module.train()
        assert torch.allclose(expert(x), integer, atol=2e-4)


@torch.no_grad()
def test_a_ternary_expert_computes_exact_integer_dot_products() -> None:
    model = qcore.quantize(
        nn.Linear(FEATURES, 7, bias=False), {"": {"weight": "bitnet/ternary", "input": TOKEN}}
    ).eval()
    codes, x = model.weight_quantizer.encode(model.weight), model.input_quantizer.encode(inputs())
    assert set(codes.codes.unique().tolist()) <= {-1.0, 0.0, 1.0}
    dots = x.codes.long() @ codes.codes.long().t()
    assert torch.equal(model(inputs()), dots.float() * (x.scale * codes.scale.reshape(1, -1)))


@torch.no_grad()
def test_a_mixture_of_one_expert_equals_that_expert() -> None:
    for expert in EXPERTS:
        model = make_mixture((expert,))
        assert torch.equal(model(inputs()), model.moe.experts[0](model.scaler(inputs())))


@torch.no_grad()
def test_each_row_gets_the_output_of_the_expert_it_is_sent_to() -> None:
    model = make_mixture()
    out, scaled = model(inputs()), model.scaler(inputs())
    chosen = model.moe.last_routing.experts
    for index, expert in enumerate(model.moe.experts):
        rows = chosen == index
        assert torch.allclose(out[rows], expert(scaled)[rows], atol=1e-6)


def test_other_many_widths_than_experts_are_refused() -> None:
    config = {"in_features": FEATURES, "out_features": 5, "experts": 3, "routing": {"bits": (4.0, 8.0)}}
    with pytest.raises(ConfigError, match="2 entries for 3 experts"):
        build_model("curiosity_moe/mixture", config)


def test_a_trunk_needs_a_layer_for_the_experts() -> None:
    config = {"in_features": FEATURES, "out_features": 5, "hidden": (8,), "trunk": True}
    with pytest.raises(ConfigError, match="two or more"):
        build_model("curiosity_moe/mixture", config)


def test_a_trunk_is_stored_once_and_at_eight_bits(tmp_path: Path) -> None:
    whole, shared = (save(make_mixture(trunk=t), tmp_path / f"{t}").stat().st_size for t in (False, True))
    assert shared < whole
    packed = qcore.pack(make_mixture(trunk=True))
    assert packed.moe.trunk.linear.request().bits == (8,)
    widths = [expert.blocks[0].linear.request().bits for expert in packed.moe.experts]
    assert widths[1:] == [(4,), (8,)]


def test_any_registered_router_can_route() -> None:
    config = {"in_features": FEATURES, "out_features": 5, "hidden": (8,), "router": "core/topk"}
    assert build_model("curiosity_moe/mixture", config)(inputs(6)).shape == (6, 5)


@pytest.mark.parametrize(
    ("expert", "bits", "scale_a_row"),
    [("core/int(bits=4)", 4, True), ("core/int(bits=8)", 8, True), ("bitnet/ternary", 1.6, False)],
)
def test_the_weights_of_an_expert_take_the_bytes_of_their_bits(expert: str, bits: float, scale_a_row: bool) -> None:
    config = {"in_features": 1000, "out_features": 5, "hidden": (640, 320)}
    model = build_model("core/mlp", config, torch.Generator().manual_seed(0))
    packed = qcore.pack(qcore.quantize(model, single_rules(expert, TOKEN)))
    for layer in packed.modules():
        if isinstance(layer, PackedLinear):
            rows, columns = layer.weight.shape
            expected = rows * columns * bits / 8 + 4 * (rows if scale_a_row else 1)
            assert layer.weight.nbytes == pytest.approx(expected, rel=0.01)


@torch.no_grad()
def test_an_ensemble_returns_the_mean_of_probabilities_as_logits() -> None:
    config = {"in_features": FEATURES, "out_features": 5, "hidden": (16, 8)}
    members = [build_model("core/mlp", config, torch.Generator().manual_seed(seed)).eval() for seed in range(3)]
    for member in members:
        member.fit_scalers(inputs(), torch.zeros(200))
    expected = torch.stack([member(inputs()).softmax(dim=1) for member in members]).mean(dim=0)
    model = build_model("curiosity_moe/ensemble", {**config, "members": 3}).eval()
    adopt(model, model.members, [copy.deepcopy(member) for member in members])
    assert torch.allclose(model(inputs()).softmax(dim=1), expected, atol=1e-6)
    assert torch.allclose(model(inputs()).exp(), expected, atol=1e-6)


def test_experts_are_named_after_what_they_are() -> None:
    assert [expert_name(expert) for expert in EXPERTS] == ["ternary", "int4", "int8"]
    assert expert_name({"quantizer": "core/int", "bits": 4}) == "int4"
    assert expert_name("core/int(bits=3)") == "int_bits_3"
    assert list(contenders(["core/int(bits=3)"])) == ["ternary", "int1", "int2", "int4", "int8", "int_bits_3"]
    assert expert_bits(EXPERTS) == pytest.approx((1.6, 4.0, 8.0))


@pytest.mark.parametrize(
    ("name", "options"), [("mixture", {"experts": 2, "routing": {"bits": (2, 4)}}), ("ensemble", {})]
)
def test_each_output_of_a_regression_returns_its_own_units(name: str, options: dict[str, object]) -> None:
    config = {"in_features": FEATURES, "out_features": 3, "hidden": (8,), "rescale": True, **options}
    model: Any = build_model(f"curiosity_moe/{name}", config).eval()
    targets = torch.randn(200, 3, generator=torch.Generator().manual_seed(2)) * torch.tensor([1e3, 1.0, 1e-3])
    model.fit_scalers(inputs(), targets)
    if name == "mixture":
        model.moe.router.calibrate(model.scaler(inputs()))
    with torch.no_grad():
        assert torch.allclose(model.rescale.std, targets.std(dim=0, correction=0))
        assert model(inputs()).std(dim=0)[0] > 100 * model(inputs()).std(dim=0)[1]
