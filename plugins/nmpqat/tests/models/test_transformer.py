from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qcore
from qcore.errors import ConfigError, UsageError
from qcore.nn import QuantLinear, architecture_of, build_model, set_generator
from qcore_nmpqat.models.transformer import EncoderLayer

NAME = "nmpqat/tabular_transformer"
CONFIG: dict[str, Any] = {"in_features": 5, "out_features": 3, "bins": 6, "dim": 16, "heads": 4, "feedforward": 24}
INPUT = "core/int(bits=8, granularity='token')"
RULES = {"head": None, "layers.*": {"weight": "core/int(bits=4)", "input": INPUT}}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def build(seed: int = 0, **options: Any) -> Any:
    model: Any = build_model(NAME, CONFIG | options, torch.Generator().manual_seed(seed))
    model.fit_scalers(normal(80, 5, seed=9), normal(80, seed=8))
    return model.eval()


@pytest.mark.parametrize("options", [{}, {"pool": "cls"}, {"layers": 1}, {"layers": 3}, {"out_features": 1}])
def test_one_seed_gives_one_network_and_no_global_state_is_used(options: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    first, again, other = (build(seed, **options) for seed in (1, 1, 2))
    x = normal(7, 5)
    assert torch.equal(torch.get_rng_state(), before)
    assert first(x).shape == (7, options.get("out_features", 3))
    assert torch.equal(first(x), again(x)) and not torch.equal(first(x), other(x))


def test_the_default_is_the_small_variant_of_the_fact_sheet() -> None:
    config = architecture_of(build_model(NAME, {"in_features": 4, "out_features": 2})).config  # type: ignore[union-attr]
    wanted = {"bins": 50, "dim": 64, "layers": 2, "heads": 8, "feedforward": 128}
    assert {key: config[key] for key in wanted} == wanted


def test_every_projection_is_a_linear_layer_of_its_own_and_rules_reach_them_all() -> None:
    model = build()
    linears = {name for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    assert linears == {f"layers.{i}.{part}" for i in (0, 1) for part in ("q", "k", "v", "o", "ff1", "ff2")} | {"head"}
    low = qcore.quantize(model, RULES)
    quantized = {name for name, part in low.named_modules() if isinstance(part, QuantLinear)}
    assert quantized == linears - {"head"}


def test_attention_is_its_formula() -> None:
    layer: EncoderLayer = build().layers[0]
    x = normal(2, 5, 16)
    q, k, v = (part(x).view(2, 5, 4, 4).transpose(1, 2) for part in (layer.q, layer.k, layer.v))
    expected = (torch.softmax(q @ k.transpose(2, 3) / math.sqrt(4), dim=-1) @ v).transpose(1, 2).reshape(2, 5, 16)
    assert torch.allclose(layer.attend(x), expected, atol=1e-6)


def test_the_own_token_sees_all_features_and_they_see_it() -> None:
    model = build(pool="cls")
    x = normal(1, 5)
    base = model(x)
    for feature in range(5):
        changed = x.clone()
        changed[0, feature] = -10 * x[0, feature].sign()
        assert not torch.equal(model(changed), base)
    model(x).sum().backward()
    assert model.start.grad.abs().sum() > 0
    assert build().start is None


def test_rows_do_not_mix() -> None:
    model, x = build(), normal(6, 5)
    assert torch.allclose(model(x)[2:3], model(x[2:3]), atol=1e-6)


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_regression_returns_the_units_of_its_targets(outputs: int) -> None:
    model: Any = build_model(NAME, CONFIG | {"out_features": outputs, "rescale": True}).eval()
    targets = normal(80, outputs) * 7 - 300
    model.fit_scalers(normal(80, 5), targets.squeeze(1) if outputs == 1 else targets)
    model.head.weight.data.zero_()
    model.head.bias.data.zero_()
    assert torch.allclose(model(normal(2, 5)), targets.mean(dim=0).expand(2, outputs), atol=1e-3)


def test_dropout_draws_from_the_generator_it_is_given() -> None:
    model, x = build(dropout=0.5).train(), normal(4, 5)
    before = torch.get_rng_state()
    found = []
    for seed in (1, 1, 2):
        set_generator(model, torch.Generator().manual_seed(seed))
        found.append(model(x))
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("options", [{}, {"pool": "cls", "out_features": 4, "rescale": True}])
def test_files_carry_bins_and_scaling(options: dict[str, Any], tmp_path: Path) -> None:
    model, x = build(**options), normal(9, 5)
    for name, given in (("float", model), ("packed", qcore.pack(qcore.quantize(model, RULES)))):
        path = tmp_path / f"{name}.safetensors"
        qcore.save(given, path)
        loaded = qcore.load(path)
        assert torch.equal(loaded(x), given(x))
        assert torch.equal(loaded.tokens.edges, model.tokens.edges)  # type: ignore[union-attr]
    small, large = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("packed", "float"))
    assert small < large


def test_packed_equals_eval_bit_for_bit() -> None:
    low = qcore.quantize(build(), RULES)
    x = normal(9, 5)
    assert torch.equal(qcore.pack(low, backend="core/reference")(x), low.eval()(x))


@pytest.mark.parametrize("packed", [False, True])
def test_it_can_be_exported_for_any_number_of_rows(packed: bool) -> None:
    model = build()
    if packed:
        model = qcore.pack(qcore.quantize(model, RULES), backend="core/reference")
    rows = torch.export.Dim("rows")
    with torch.no_grad():
        program = torch.export.export(model, (normal(4, 5),), dynamic_shapes=({0: rows},))
        x = normal(11, 5)
        assert torch.allclose(program.module()(x), model(x), atol=1e-6)


def test_a_plan_has_no_steps_for_it_and_says_so() -> None:
    with pytest.raises(UsageError, match="no steps for"):
        qcore.compile_plan(build(), "core/reference")


def test_it_learns_what_a_linear_model_cannot() -> None:
    x = normal(400, 5)
    y = (x[:, 0] * x[:, 1] > 0).long()
    model: Any = build_model(NAME, CONFIG | {"out_features": 2, "dropout": 0.0, "bins": 8, "layers": 1})
    model.fit_scalers(x, y)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(120):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    assert float((model(x).argmax(dim=1) == y).float().mean()) > 0.9


@pytest.mark.parametrize(
    "bad", [{"heads": 3}, {"layers": 0}, {"layers": 4}, {"bins": 1}, {"pool": "max"}, {"dropout": 1.0}, {"depth": 2}]
)
def test_options_that_do_not_fit_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build(**bad)
