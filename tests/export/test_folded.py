"""Files of models whose batch norms are folded: smaller, and rebuilt from the network that is registered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as from_safetensors
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

import qcore
from qcore.errors import ModelFileError
from qcore.export import to_bytes

INT4 = {"weight": "core/int(bits=4)", "input": "core/int(granularity='token')"}


@pytest.fixture
def network() -> nn.Module:
    """Return a quantized registered network of four batch norms, one of them behind a float layer, in eval mode."""
    config = {"in_channels": 2, "out_features": 3, "image_size": 8, "width": 4, "blocks": 2}
    model = qcore.get("model", "core/cnn", **config)
    generator = torch.Generator().manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight.data, norm.bias.data, norm.running_mean):
                torch.randn(tensor.shape, generator=generator, out=tensor)  # type: ignore[call-overload, arg-type]
            norm.running_var.uniform_(0.1, 3, generator=generator)  # type: ignore[union-attr]
    return qcore.quantize(model, {"features.0": None, "*": INT4}).eval()


def images() -> Tensor:
    return torch.randn(3, 2, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_folded_model_comes_back_as_it_was(network: nn.Module, tmp_path: Path) -> None:
    path = qcore.save(network, tmp_path / "m.safetensors", fold=True)
    folded = qcore.pack(network, fold=True)
    loaded = qcore.load(path)
    assert torch.equal(loaded(images()), folded(images()))
    assert torch.equal(qcore.compile_plan(loaded)(images()), qcore.compile_plan(folded)(images()))
    assert to_bytes(folded) == to_bytes(loaded) == to_bytes(qcore.pack(network), fold=True) == path.read_bytes()
    assert [norm.folded for norm in qcore.explain(loaded).norms] == [False, True, True, True]
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def test_the_file_says_what_is_folded_and_has_no_statistics_of_it(network: nn.Module, tmp_path: Path) -> None:
    folded = qcore.inspect(qcore.save(network, tmp_path / "folded.safetensors", fold=True))
    plain = qcore.inspect(qcore.save(network, tmp_path / "plain.safetensors"))
    assert folded.folded == {"features.4": "features.3", "features.8": "features.7", "features.11": "features.10"}
    assert plain.folded == {}
    assert (plain.header["format"], folded.header["format"]) == ("qcore.model/1", "qcore.model/2")
    assert folded.nbytes < plain.nbytes
    assert {name for name in folded.tensors if "running" in name} == {
        "features.1.running_mean",
        "features.1.running_var",
    }
    assert folded.layers["features.3"]["folded"] == "4"


def test_a_network_of_ones_own_is_loaded_into_its_twin_folded_or_not(tmp_path: Path) -> None:
    def twin() -> nn.Sequential:
        return nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5)).eval()

    model, x = qcore.quantize(twin(), {"0": INT4}), torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    path = qcore.save(model, tmp_path / "m.safetensors", fold=True)
    folded = qcore.pack(model, fold=True)
    for other in (twin(), model, folded):
        assert torch.equal(qcore.load(path, model=other)(x), folded(x))
    plain = qcore.save(model, tmp_path / "plain.safetensors")
    with pytest.raises(ModelFileError, match="bias: False in the file, True in the network"):
        qcore.load(plain, model=folded)
    with pytest.raises(ModelFileError, match="batch norm 1 folded into it"):
        qcore.load(path, model=nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.BatchNorm1d(5)))
    with pytest.raises(ModelFileError, match="batch norm 1 folded into it"):
        qcore.load(path, model=nn.Sequential(nn.Linear(6, 5, bias=False)))


def respelt(path: Path, change: Any) -> Path:
    """Write a changed copy of the file with its checksums removed from the comparison."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["qcore"])
    tensors = from_safetensors(data)
    change(header, tensors)
    from qcore.export.format import checksum
    from qcore.export.write import raw_bytes

    header["checksums"] = "".join(checksum(raw_bytes(tensors[name])) for name in sorted(tensors))
    changed = path.with_name("changed.safetensors")
    changed.write_bytes(to_safetensors(tensors, metadata={"qcore": json.dumps(header)}))
    return changed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda h, _: h["layers"]["features.3"].update(folded="5"), "features.3: the batch norm 5 folded into it"),
        (lambda h, _: h["layers"]["features.3"].update(folded="x.4"), r"layers\.features\.3\.folded"),
        (lambda h, _: h["layers"]["features.3"].update(bias=False), "which have a bias then"),
        (lambda h, _: h["layers"]["head"].update(folded="4"), "head: the batch norm 4 folded into it"),
        (lambda h, _: h["layers"]["features.3"].pop("folded"), "features.3: bias: True in the file, False"),
        (lambda _, t: t.update({"features.3.bias": torch.zeros(1)}), r"features.3: bias \[1\]"),
        (lambda _, t: t.pop("features.3.bias"), "features.3.bias: missing"),
        (lambda _, t: t.update({"features.4.running_mean": torch.zeros(4)}), "no such tensor"),
    ],
)
def test_a_file_that_misstates_what_is_folded_is_refused(
    change: Any, words: str, network: nn.Module, tmp_path: Path
) -> None:
    path = qcore.save(network, tmp_path / "m.safetensors", fold=True)
    with pytest.raises(ModelFileError, match=words):
        qcore.load(respelt(path, change))
