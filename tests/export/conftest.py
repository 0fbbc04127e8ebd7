"""Models to save, and files to spoil."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

import qcore

Header = dict[str, Any]
Tamper = Callable[[Callable[[Header, dict[str, Tensor]], object]], Path]


@pytest.fixture
def network() -> nn.Module:
    """Return a small quantized network, in eval mode."""
    model = qcore.get("model", "core/mlp", in_features=10, out_features=3, hidden=(8, 5))
    token = "core/int(granularity='token')"
    rules = {
        "blocks.0.*": {"weight": "core/int(bits=4)", "input": token},
        "blocks.1.*": {"weight": "core/int(bits=2, symmetric=False)", "input": token},
        "head": "core/int(bits=8, granularity='group', group_size=2)",
    }
    return qcore.quantize(model, rules).eval()


@pytest.fixture
def inputs() -> Tensor:
    """Return samples for that network."""
    return torch.randn(7, 10, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def saved(network: nn.Module, tmp_path: Path) -> Path:
    """Return a file of that network."""
    return qcore.save(network, tmp_path / "model.safetensors", metadata={"classes": ["a", "b", "c"]})


@pytest.fixture
def tampered(saved: Path, tmp_path: Path) -> Tamper:
    """Return a function that writes a changed copy of the file, as one who knows the format would."""

    def write(change: Callable[[Header, dict[str, Tensor]], object]) -> Path:
        data = saved.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header: Header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["qcore"])
        tensors = from_safetensors(data)
        change(header, tensors)
        path = tmp_path / "tampered.safetensors"
        path.write_bytes(to_safetensors(tensors, metadata={"qcore": json.dumps(header)}))
        return path

    return write
