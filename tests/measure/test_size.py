from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import qcore
from qcore.measure.size import model_size
from qcore.nn import PackedLayer
from qcore.nn.models import build_model

INT8 = "core/int(bits=8, granularity='token')"
CONFIG = {"in_features": 64, "out_features": 10, "hidden": (32,)}
WEIGHTS = 64 * 32 + 32 * 10


def network() -> nn.Module:
    return build_model("core/mlp", CONFIG)


def test_a_float_model_takes_four_bytes_a_weight() -> None:
    size = model_size(network())
    assert (size.weights, size.weight_nbytes, size.effective_bits) == (WEIGHTS, 4 * WEIGHTS, 32.0)
    assert size.parameters == WEIGHTS + 32 + 10 + 2 * 32
    assert size.memory_nbytes == 4 * (size.parameters + 2 * 64)
    assert size.kernel_nbytes == 0


def test_a_packed_weight_takes_its_codes_and_scales() -> None:
    model = qcore.quantize(network(), {"blocks.*": {"weight": "core/int(bits=4)", "input": INT8}})
    size = model_size(model)
    assert size.weight_nbytes == 64 * 32 // 2 + 4 * 32 + 4 * 320
    assert size.effective_bits == pytest.approx(8 * size.weight_nbytes / WEIGHTS)
    assert size.weights == WEIGHTS
    assert size.parameters == model_size(network()).parameters


def test_a_model_counts_the_same_quantized_packed_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QCORE_BACKEND", "core/reference")  # each backend's kernels keep bytes of their own
    model = qcore.quantize(network(), {"blocks.*": {"weight": "core/int(bits=3)", "input": INT8}})
    path = qcore.save(model, tmp_path / "model.safetensors")
    sizes = [model_size(model), model_size(qcore.pack(model)), model_size(path), model_size(str(path))]
    assert len(set(sizes)) == 1
    assert sizes[0].file_nbytes == path.stat().st_size


def test_another_backend_changes_the_bytes_of_its_kernels_alone(tmp_path: Path) -> None:
    model = qcore.quantize(network(), {"blocks.*": {"weight": "core/int(bits=3)", "input": INT8}})
    best = qcore.pack(model)
    kernels = sum(
        layer.choice.kernel.nbytes for layer in best.modules() if isinstance(layer, PackedLayer) and layer.choice
    )
    expected = replace(model_size(model), kernel_nbytes=kernels)
    assert model_size(best) == model_size(qcore.save(model, tmp_path / "model.safetensors")) == expected


def test_counting_leaves_a_quantized_model_unpacked() -> None:
    model = qcore.quantize(network(), {"blocks.*": {"weight": "core/int(bits=4)", "input": INT8}})
    before = [type(layer) for layer in model.modules()]
    model_size(model)
    assert [type(layer) for layer in model.modules()] == before


def test_the_file_takes_little_more_than_its_tensors() -> None:
    size = model_size(build_model("core/mlp", {"in_features": 512, "out_features": 10, "hidden": (512, 512)}))
    assert size.memory_nbytes < size.file_nbytes < 1.01 * size.memory_nbytes


def test_a_known_file_size_is_taken_as_given() -> None:
    assert model_size(network(), file_nbytes=7).file_nbytes == 7


def test_shared_weights_count_once() -> None:
    first = nn.Linear(8, 8, bias=False)
    second = nn.Linear(8, 8, bias=False)
    second.weight = first.weight
    size = model_size(nn.Sequential(first, second), file_nbytes=0)
    assert (size.weights, size.memory_nbytes, size.parameters) == (64, 256, 64)


def test_a_model_without_weights_has_no_bits_a_weight() -> None:
    size = model_size(nn.Sequential(nn.ReLU(), nn.LayerNorm(4)))
    assert size.weights == 0 and size.effective_bits is None and size.parameters == 8


def test_half_precision_weights_take_two_bytes() -> None:
    assert model_size(nn.Linear(8, 8).to(torch.float16), file_nbytes=0).effective_bits == 16.0
