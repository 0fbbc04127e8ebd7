from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import qcore
from qcore.backends import Kernel
from qcore.backends.reference import ReferenceBackend
from qcore.errors import QcoreError, UsageError
from qcore.measure.bench.layers import Options
from qcore.measure.bench.models import bench_model, float_twin, sample_shape
from qcore.measure.bench.peers import choose_peers
from qcore.nn import PackedLayer, build_model
from qcore.plugins import Framework
from qcore.registry import BackendSpec

INT8 = "core/int(granularity='token')"
RULE = {"weight": "core/int(bits=8)", "input": INT8}
OPTIONS = Options(rounds=2, peers=choose_peers("fbgemm,int_mm"), bandwidth_nbytes=1 << 16)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = build_model("core/mlp", {"in_features": 12, "out_features": 3, "hidden": (8,)})
    quantized = qcore.quantize(model, {"blocks.*": RULE})
    return Path(qcore.save(quantized, tmp_path_factory.mktemp("models") / "model.safetensors"))


def test_a_model_runs_beside_its_float_twin_and_the_peers_that_take_models(file: Path) -> None:
    told: list[str] = []
    report = bench_model(file, (1, 4), None, OPTIONS, told.append)
    names = ["torch fp32", "packed", "packed, plan", "torch dynamic int8, fbgemm"]
    assert [(row.subject, row.batch, row.contender) for row in report.rows] == [
        ("model.safetensors", batch, name) for batch in (1, 4) for name in names
    ]
    assert report.rows[0].touched_nbytes == 4 * (12 * 8 + 8 * 3 + 12 + 3)
    assert report.rows[1].deviation < 0.1
    assert told[-1] == "2/2: model.safetensors, batch 4"


def test_a_model_without_a_plan_is_timed_with_the_reason(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise UsageError("no steps for this")

    monkeypatch.setattr("qcore.measure.bench.models.compile_plan", refuse)
    report = bench_model(file, (1,), None, OPTIONS)
    assert {row.contender: row.reason for row in report.rows}["packed, plan"] == "no steps for this"


class Negates(ReferenceBackend):
    """A backend whose kernels are wrong."""

    name = "negates"

    def prepare(self, *given: Any) -> Kernel:
        kernel = super().prepare(*given)
        return replace(kernel, call=lambda x: -kernel.call(x))


def test_a_packed_model_that_computes_something_else_is_an_error(file: Path) -> None:
    registry = Framework(no_plugins=True).registry
    target = f"{__name__}:Negates"
    registry.commit([BackendSpec(name="negates", target=target, summary="wrong")], plugin="test")
    options = replace(OPTIONS, backend="test/negates", registry=registry)
    with pytest.raises(QcoreError, match="packed computes something else on model.safetensors"):
        bench_model(file, (4,), None, options)


def test_a_model_of_few_bits_that_is_far_from_its_float_twin_is_timed(tmp_path: Path) -> None:
    coarse = {"weight": "core/int(bits=2)", "input": "core/int(bits=2, granularity='token')"}
    model = qcore.quantize(build_model("core/mlp", {"in_features": 12, "out_features": 3}), {"*": coarse})
    file = Path(qcore.save(model, tmp_path / "coarse.safetensors"))
    row = bench_model(file, (4,), None, replace(OPTIONS, peers=())).rows[1]
    assert row.median_us is not None and row.deviation > 0.25


@pytest.mark.parametrize("sample", [(7,), (3, 32, 32)])
def test_a_sample_that_the_model_does_not_take_is_a_usage_error(file: Path, sample: tuple[int, ...]) -> None:
    given = "x".join(map(str, sample))
    with pytest.raises(UsageError, match=f"--input {given}: the model takes no such sample") as caught:
        bench_model(file, (1,), sample, OPTIONS)
    assert caught.value.hint


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)),
        nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2, bias=False), nn.Flatten(), nn.Linear(36, 2)),
        nn.Sequential(nn.Conv2d(2, 3, (3, 1), padding=(1, 0), padding_mode="reflect"), nn.Conv2d(3, 2, 2, dilation=2)),
    ],
    ids=["linear", "strided", "reflect"],
)
def test_the_float_twin_computes_with_the_numbers_of_the_packed_model(model: nn.Sequential) -> None:
    packed = qcore.pack(qcore.quantize(model.eval(), {"*": {"weight": "core/int(bits=4)"}}), "core/reference")
    twin = float_twin(packed)
    assert not any(isinstance(layer, PackedLayer) for layer in twin.modules())
    assert any(isinstance(layer, PackedLayer) for layer in packed.modules())
    sizes = (3, 5) if isinstance(model[0], nn.Linear) else (3, 2, 6, 6)
    x = torch.randn(*sizes, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(twin(x), packed(x))


def test_a_layer_in_two_places_stays_one_in_the_twin() -> None:
    layer = nn.Linear(4, 4)
    packed = qcore.pack(qcore.quantize(nn.Sequential(layer, layer), {"*": RULE}), "core/reference")
    twin = float_twin(packed)
    assert twin[0] is twin[1]


def test_a_model_without_packed_layers_or_with_lopsided_padding_is_refused() -> None:
    with pytest.raises(UsageError, match="no packed layer"):
        float_twin(nn.Sequential(nn.Linear(2, 2)))
    conv = nn.Sequential(nn.Conv2d(1, 1, 2, padding="same", padding_mode="circular"))
    packed = qcore.pack(qcore.quantize(conv, {"*": {"weight": "core/int"}}), "core/reference")
    with pytest.raises(UsageError, match="no float twin"):
        float_twin(packed)


def test_the_shape_of_a_sample_is_that_of_the_network_or_must_be_told(tmp_path: Path, file: Path) -> None:
    assert sample_shape(qcore.inspect(file)) == (12,)
    config = {"in_channels": 2, "out_features": 3, "image_size": 16, "width": 4, "blocks": 1}
    images = qcore.quantize(build_model("core/cnn", config), {"type:Conv2d": {"weight": "core/int"}})
    assert sample_shape(qcore.inspect(qcore.save(images, tmp_path / "images.safetensors"))) == (2, 16, 16)
    own = qcore.quantize(nn.Sequential(nn.Linear(5, 4)), {"*": RULE})
    saved = qcore.save(own, tmp_path / "own.safetensors", metadata={"features": list("abcde")})
    assert sample_shape(qcore.inspect(saved)) == (5,)
    with pytest.raises(UsageError, match="--input"):
        sample_shape(qcore.inspect(qcore.save(own, tmp_path / "untold.safetensors")))
