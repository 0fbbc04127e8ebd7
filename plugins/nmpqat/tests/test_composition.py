"""Composition: neurons of learned widths as an expert of ``curiosity_moe``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import qcore

pytest.importorskip("qcore_curiosity_moe", reason="qcore-curiosity-moe is not installed")


def test_an_expert_of_learned_widths_trains_packs_and_runs(tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = {"experts": ["nmpqat/neuron", "core/int(bits=8)"], "epochs": 3, "arms": ["float", "moe_curiosity"]}
    qcore.run("curiosity_moe", task="breast_cancer", folds=2, settings=settings, workers=1, latency=False, out=out)
    summary = json.loads((out / "summary.json").read_text())
    assert summary["arms"]["moe_curiosity"]["score"]["mean"] > 0.8
    result = json.loads((out / "moe_curiosity" / "fold-0" / "result.json").read_text())
    assert result["packed"]["max_abs_difference"] <= max(result["packed"]["bound"], 1e-5)
    model = qcore.load(out / "moe_curiosity" / "fold-0" / "model.safetensors")
    x = torch.randn(4, 30, generator=torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(model(x)).all())
