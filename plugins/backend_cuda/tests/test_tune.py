from __future__ import annotations

from pathlib import Path

import pytest
import torch

from qcore.tensor import QTensor
from qcore.testing.backend_problems import coded_weight
from qcore_backend_cuda import tune
from qcore_backend_cuda.config import Config, candidates, default_config
from qcore_backend_cuda.weights import PackedWeight


def packed(rows: int = 33, cols: int = 127, *, integer: bool = True) -> PackedWeight:
    return PackedWeight.pack(QTensor.pack(coded_weight("int", 4, (rows, cols), "row")), None, integer=integer)


def test_what_was_found_is_read_by_the_next_process(tmp_path: Path) -> None:
    path, config = tmp_path / "deep" / "gpu-1.json", Config("dot", 64, 16, 4, 3, 2)
    tune.Tuned(path).put("a", config)
    tune.Tuned(path).put("b", Config("gemv", 8, 0, 4, 3, shared=True))
    found = tune.Tuned(path)
    assert found.get("a") == config and found.get("b") is not None and found.get("c") is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 3}', '{"a": {"kind": "dot"}}', '{"a": {"unknown": 1}}'])
def test_a_damaged_file_counts_as_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "gpu.json"
    path.write_text(text)
    found = tune.Tuned(path)
    assert found.get("a") is None
    found.put("a", Config("dense", 128, 128, 8, 4))
    assert tune.Tuned(path).get("a") is not None


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = tune.Tuned(tmp_path / "file" / "gpu.json")
    found.put("a", Config("dense", 128, 128, 8, 4))
    assert found.get("a") is not None


def test_layers_of_a_kind_share_a_choice() -> None:
    weight = packed()
    assert tune.key_of(weight, 3, torch.float32) == tune.key_of(packed(40, 100), 4, torch.bfloat16)
    assert tune.key_of(weight, 3, torch.float32) != tune.key_of(weight, 5, torch.float32)
    real = packed(integer=False)
    assert tune.key_of(real, 3, torch.float32) != tune.key_of(real, 3, torch.bfloat16)


def test_without_a_gpu_the_default_is_taken_and_nothing_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(tune.TUNE_VARIABLE, "1")
    weight = packed()
    chosen = tune.tune(weight, 3, torch.float32, lambda config: pytest.fail("it was run"))
    assert chosen == default_config(3, 33, 127, integer=True, wide=False)


@pytest.mark.parametrize("count", [1, 2, 4, 16, 64, 256, 4096])
def test_there_is_something_to_try_for_every_batch(count: int) -> None:
    for integer, wide in ((True, False), (False, False), (False, True)):
        tried = candidates(count, integer=integer, wide=wide)
        assert 0 < len(tried) <= 24 and len(set(tried)) == len(tried)
        assert len({str(config) for config in tried}) == len(tried)
