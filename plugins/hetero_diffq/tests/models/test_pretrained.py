from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import qcore
from qcore.errors import DataError, UsageError
from qcore.nn import build_model
from qcore_hetero_diffq.models.naming import NAMINGS, tensor_names
from qcore_hetero_diffq.models.pretrained import load_pretrained

State = dict[str, Tensor]


@pytest.fixture(autouse=True)
def no_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QCORE_DATA", raising=False)


def build(seed: int = 0, **options: object) -> nn.Module:
    small = {"width": 0.25, "out_features": 5, **options}
    return build_model("hetero_diffq/mobilenet_v2", small, torch.Generator().manual_seed(seed)).eval()


def renamed(model: nn.Module, naming: str) -> State:
    names = tensor_names(model, naming)
    return {names[own]: tensor.clone() for own, tensor in model.state_dict().items() if own in names}


def saved(path: Path, state: State) -> Path:
    save_file(state, path)
    return path


def agree(first: nn.Module, second: nn.Module) -> bool:
    return all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("naming", [naming for naming in NAMINGS if naming != "tflite_folded"])
@pytest.mark.parametrize("explicit", [False, True])
def test_weights_come_over_by_every_naming(naming: str, explicit: bool, tmp_path: Path) -> None:
    source, model = build(1), build(2)
    load_pretrained(model, saved(tmp_path / "x.safetensors", renamed(source, naming)), naming if explicit else "auto")
    assert agree(model, source)


def test_npz_files_do_as_well_and_counts_of_batches_may_be_missing(tmp_path: Path) -> None:
    source, model = build(1), build(2)
    state = {name: tensor for name, tensor in renamed(source, "timm").items() if "num_batches" not in name}
    np.savez(tmp_path / "x.npz", **{name: tensor.numpy() for name, tensor in state.items()})
    load_pretrained(model, tmp_path / "x.npz")
    assert agree(model, source)


def test_names_are_those_of_torchvision_and_timm() -> None:
    """Some of each: a block without expansion, one with, the last unit and the head."""
    model = build()
    torchvision, timm = tensor_names(model, "torchvision"), tensor_names(model, "timm")
    pairs = {
        "stem.norm.running_mean": ("features.0.1.running_mean", "bn1.running_mean"),
        "stages.0.0.depthwise.conv.weight": ("features.1.conv.0.0.weight", "blocks.0.0.conv_dw.weight"),
        "stages.0.0.depthwise.norm.bias": ("features.1.conv.0.1.bias", "blocks.0.0.bn1.bias"),
        "stages.0.0.project.conv.weight": ("features.1.conv.1.weight", "blocks.0.0.conv_pw.weight"),
        "stages.0.0.project.norm.weight": ("features.1.conv.2.weight", "blocks.0.0.bn2.weight"),
        "stages.1.0.expand.conv.weight": ("features.2.conv.0.0.weight", "blocks.1.0.conv_pw.weight"),
        "stages.6.0.depthwise.norm.weight": ("features.17.conv.1.1.weight", "blocks.6.0.bn2.weight"),
        "stages.6.0.project.conv.weight": ("features.17.conv.2.weight", "blocks.6.0.conv_pwl.weight"),
        "stages.6.0.project.norm.bias": ("features.17.conv.3.bias", "blocks.6.0.bn3.bias"),
        "last.conv.weight": ("features.18.0.weight", "conv_head.weight"),
        "last.norm.weight": ("features.18.1.weight", "bn2.weight"),
        "head.bias": ("classifier.1.bias", "classifier.bias"),
    }
    assert {own: (torchvision[own], timm[own]) for own in pairs} == pairs
    for names in (torchvision, timm):  # all but the scaler's mean and deviation
        assert len(set(names.values())) == len(names) == len(model.state_dict()) - 2


def test_everything_that_is_wrong_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    model = build(2)
    state = renamed(build(1), "torchvision")
    del state["features.3.conv.0.0.weight"], state["classifier.1.bias"]
    state["features.0.0.weight"] = torch.zeros(8, 3, 5, 5)
    state["features.0.1.weight"] = torch.zeros(8, dtype=torch.int32)
    state["features.0.1.bias"][0] = torch.nan
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(DataError) as caught:
        load_pretrained(model, saved(tmp_path / "x.safetensors", state))
    for words in (
        "missing: features.3.conv.0.0.weight, classifier.1.bias",
        "unexpected: extra.weight",
        "features.0.0.weight has the shape (8, 3, 5, 5), and stem.conv.weight has (8, 3, 3, 3)",
        "features.0.1.weight is torch.int32, and stem.norm.weight is torch.float32",
        "features.0.1.bias holds NaN or infinity",
    ):
        assert words in caught.value.message
    assert "out_features must be those of the weights" in str(caught.value.hint)
    assert agree(model, build(2))


def test_the_head_can_be_left_for_other_classes(tmp_path: Path) -> None:
    source, model = build(1, out_features=7), build(2)
    path = saved(tmp_path / "x.safetensors", renamed(source, "timm"))
    with pytest.raises(DataError, match=r"classifier.weight has the shape \(7, 1280\)"):
        load_pretrained(model, path)
    load_pretrained(model, path, head=False)
    assert torch.equal(model.head.weight, build(2).head.weight)
    assert torch.equal(model.last.conv.weight, source.last.conv.weight)


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin"])
def test_pickles_are_refused_with_the_line_that_converts_them(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x.{suffix}"
    torch.save(build(1).state_dict(), path)
    with pytest.raises(DataError, match="is a pickle, which is not read") as caught:
        load_pretrained(build(2), path)
    (code,) = re.findall(r'python -c "(.*)"', str(caught.value.hint))
    assert f"torch.load('x.{suffix}', weights_only=True)" in code
    exec(code.replace("'x.", f"'{tmp_path}/x."), {})
    model = build(2)
    load_pretrained(model, tmp_path / "x.safetensors")
    assert agree(model, build(1))


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("x.safetensors", b"nothing of that kind", "cannot be read as a safetensors file"),
        ("x.npz", b"nothing of that kind", "cannot be read as an npz file"),
        ("x.h5", b"", "they are read from .safetensors and .npz"),
    ],
)
def test_files_that_cannot_be_read_are_refused(name: str, content: bytes, match: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=match):
        load_pretrained(build(), tmp_path / name)


def test_objects_in_an_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=np.array([None]))
    with pytest.raises(DataError, match="Python objects"):
        load_pretrained(build(), tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", a=np.array(["text"]))
    with pytest.raises(DataError, match="other things than numbers: a"):
        load_pretrained(build(), tmp_path / "x.npz")


def test_a_missing_file_other_names_and_other_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is nothing at"):
        load_pretrained(build(), tmp_path / "none.safetensors")
    path = saved(tmp_path / "x.safetensors", {"conv1.weight": torch.zeros(1)})
    with pytest.raises(DataError, match=r"conv1\.weight, \.\.\.") as caught:
        load_pretrained(build(), path)
    assert "timm (conv_stem.weight)" in str(caught.value.hint)
    resnet = build_model("hetero_diffq/resnet20", {}, torch.Generator().manual_seed(0))
    with pytest.raises(UsageError, match="ResNet20"):
        load_pretrained(resnet, path)
    packed = qcore.pack(qcore.quantize(build(), {"*": "core/int(bits=8)"}))
    with pytest.raises(UsageError, match="packed"):
        load_pretrained(packed, saved(path, renamed(build(1), "timm")))


def test_quantized_layers_take_weights_too(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.safetensors", renamed(build(1), "timm"))
    model = qcore.quantize(build(2), {"*": "core/int(bits=8)"})
    load_pretrained(model, path)
    assert torch.equal(model.last.conv.weight, build(1).last.conv.weight)


def folded_arrays(model: nn.Module) -> dict[str, np.ndarray]:
    arrays = {}
    for place, layer in enumerate(m for m in model.modules() if isinstance(m, nn.Conv2d)):
        codes = np.random.default_rng(place).integers(-127, 128, tuple(layer.weight.shape)).astype(np.int8)
        arrays |= {f"L{place:02d}_w": codes, f"L{place:02d}_s": np.full(len(codes), 0.01, dtype=np.float32)}
        arrays[f"L{place:02d}_b"] = np.arange(len(codes), dtype=np.float32)
    head = np.ones((5, 1280, 1, 1), dtype=np.int8)
    scale = np.arange(5, dtype=np.float32)
    arrays |= {"L52_w": head, "L52_s": scale, "L52_b": -scale, "kinds": np.array(["conv"] * 53)}
    return arrays


@pytest.fixture
def folded() -> nn.Module:
    return build(norm=False, padding="tensorflow")


def test_a_folded_network_takes_codes_times_scales(folded: nn.Module, tmp_path: Path) -> None:
    arrays = folded_arrays(folded)
    np.savez(tmp_path / "x.npz", **arrays)
    load_pretrained(folded, tmp_path / "x.npz")
    assert torch.equal(folded.head.weight, torch.arange(5.0).view(5, 1).expand(5, 1280))
    assert torch.equal(folded.head.bias, -torch.arange(5.0))
    expected = torch.from_numpy(arrays["L01_w"]).float() * 0.01
    assert torch.allclose(folded.stages[0][0].depthwise.conv.weight, expected)
    assert torch.equal(folded.last.conv.bias, torch.arange(1280.0))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"L03_s": None}, "lacks a part of L03"),
        ({"L03_s": np.ones(3, dtype=np.float32)}, r"L03_s has the shape \(3,\)"),
        ({"L52_w": None, "L52_s": None, "L52_b": None}, "missing: L52.weight, L52.bias"),
    ],
)
def test_a_folded_file_that_does_not_add_up_is_refused(
    folded: nn.Module, change: dict[str, object], match: str, tmp_path: Path
) -> None:
    arrays = {name: array for name, array in (folded_arrays(folded) | change).items() if array is not None}
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=match):
        load_pretrained(folded, tmp_path / "x.npz")


def test_the_option_weights_loads_them_and_stays_out_of_files(tmp_path: Path, make: Callable[..., nn.Module]) -> None:
    path = saved(tmp_path / "secret-place.safetensors", renamed(build(1), "torchvision"))
    model = make(weights=str(path))
    assert agree(model.eval(), build(1))
    file = qcore.save(model, tmp_path / "model.safetensors")
    path.unlink()
    assert b"secret-place" not in file.read_bytes() and b'"weights"' not in file.read_bytes()
    assert agree(qcore.load(file), build(1))


@pytest.fixture
def make() -> Callable[..., nn.Module]:
    return lambda **options: qcore.get("model", "hetero_diffq/mobilenet_v2", width=0.25, out_features=5, **options)
