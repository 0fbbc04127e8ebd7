"""Files that cannot be trusted: each is refused with what is wrong, and nothing is half-loaded."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn

import qcore
from qcore.errors import ModelFileError
from qcore.export.format import checksum
from qcore.export.write import raw_bytes
from qcore.plugins import Framework

Header = dict[str, Any]
Tamper = Callable[[Callable[[Header, dict[str, Tensor]], object]], Path]


def refused(path: Path, words: str | None = None) -> str:
    with pytest.raises(ModelFileError, match=words) as caught:
        qcore.load(path)
    return str(caught.value)


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def test_a_file_cut_anywhere_is_refused(saved: Path) -> None:
    data = saved.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for length in (0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, len(data) - 100, len(data) - 1):
        saved.write_bytes(data[:length])
        refused(saved, "truncated|promises")
    saved.write_bytes(data[:-1])
    assert "cut off: " in refused(saved)


def test_bytes_after_the_end_are_refused(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes() + b"\0")
    refused(saved, "promises")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(saved: Path, network: nn.Module, place: float, flip: int) -> None:
    original = saved.read_bytes()
    data = bytearray(original)
    data[int(place * len(data))] ^= flip
    saved.write_bytes(data)
    try:
        loaded = qcore.load(saved)
    except ModelFileError:
        pass
    else:  # a changed name among the metadata, say: then the numbers are still those that were saved
        state = qcore.pack(network).state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in loaded.state_dict().items())
    finally:
        saved.write_bytes(original)


def test_damaged_tensors_are_all_named(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    names = json.loads(data[8:start])
    names.pop("__metadata__")
    for name in ("head.weight_codes_0", "blocks.0.linear.bias"):
        data[start + names[name]["data_offsets"][0]] ^= 1
    saved.write_bytes(data)
    assert "checksums: blocks.0.linear.bias, head.weight_codes_0" in refused(saved, "is damaged")


FOREIGN = {
    "empty object": with_header(b"{}"),
    "list": with_header(b"[]"),
    "number": with_header(b"1"),
    "no JSON": with_header(b"{'a': 1}"),
    "no text": with_header(b"\xff\xfe{}"),
    "deep": with_header(b"[" * 200_000),
    "huge header": (1 << 60).to_bytes(8, "little") + b"{}",
    "metadata is a number": with_header(b'{"__metadata__": 5}'),
    "entry is a number": with_header(b'{"a": 5}'),
    "entry without offsets": with_header(b'{"a": {"dtype": "F32", "shape": [1]}}', b"1234"),
    "offsets are text": with_header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}}', b"1234"),
    "three offsets": with_header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}', b"1234"),
    "shape is text": with_header(b'{"a": {"dtype": "F32", "shape": "1", "data_offsets": [0, 4]}}', b"1234"),
    "pickle": b"\x80\x04\x95" + b"x" * 100,
    "zip": b"PK\x03\x04" + b"x" * 100,
    "text": b"this is no model file at all, it is only text",
    "safetensors of another": to_safetensors({"a": torch.zeros(3)}),
    "another's metadata": to_safetensors({"a": torch.zeros(3)}, metadata={"format": "pt"}),
    "metadata no JSON": to_safetensors({"a": torch.zeros(3)}, metadata={"qcore": "{"}),
    "metadata a list": to_safetensors({"a": torch.zeros(3)}, metadata={"qcore": "[1]"}),
    "metadata deep": to_safetensors({"a": torch.zeros(3)}, metadata={"qcore": "[" * 100_000}),
    "metadata without format": to_safetensors({"a": torch.zeros(3)}, metadata={"qcore": "{}"}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_files_of_others_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(FOREIGN[kind])
    assert str(path) in refused(path)
    with pytest.raises(ModelFileError):
        qcore.inspect(path)


def test_a_folder_a_missing_and_an_unreadable_file_are_refused(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused(tmp_path, "is a folder")
    refused(tmp_path / "nope", "no model file")

    def deny(*args: object, **options: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    refused(saved, "Permission denied")


def test_a_later_format_asks_for_an_upgrade(tampered: Tamper) -> None:
    refused(tampered(lambda header, _: header.update(format="qcore.model/4")), r"(?s)qcore\.model/4.*upgrade qcore-ml")


def at(*keys: str | int) -> Callable[[object], Callable[[Header, dict[str, Tensor]], None]]:
    """Return a function of a value that makes a change: put the value there in the header."""

    def put(value: object) -> Callable[[Header, dict[str, Tensor]], None]:
        def change(header: Header, _: dict[str, Tensor]) -> None:
            place: Any = header
            for key in keys[:-1]:
                place = place[key]
            place[keys[-1]] = value

        return change

    return put


LAYER = {
    "kind": "linear",
    "weight": {},
    "packed": {
        "shape": [3, 5],
        "dtype": "float32",
        "encoding": "int",
        "cols": 5,
        "group_size": None,
        "blocks": [{"bits": 4, "codec": "packn@1"}],
    },
    "bias": True,
    "input": None,
}
HEAD = ("layers", "head")
PACKED = (*HEAD, "packed")
TAMPERED = [
    (at("layers")([]), "layers: "),
    (at("layers")({"head": 3}), r"layers\.head: "),
    (at("model")(7), "model: "),
    (at("model")({"id": 7, "config": {}}), r"model\.id: "),
    (at("checksums")({}), "checksums: "),
    (at("checksums")("f" * 17), "checksums: "),
    (at("checksums")(""), "written with 0"),
    (lambda header, tensors: header.update(checksums="f" * 16 * len(tensors)), "is damaged"),
    (at("extra")(3), "extra: "),
    (at("surprise")(3), "surprise: "),
    (at("plugins")({"x; rm -rf /": {"distribution": None, "version": None}}), "plugins.*pattern"),
    (at("plugins")({"x": {"distribution": "y && z", "version": None}}), "plugins.*pattern"),
    (at(*HEAD, "kind")("conv2d"), "walks"),
    (at(*HEAD, "kind")("conv3d"), "kind"),
    (at(*HEAD, "packed")(None), "packed, or has a quantized input"),
    (at(*HEAD, "bias")(False), "head: bias: False in the file, True in the network"),
    (at(*HEAD, "folded")("1"), "of such layers has the format qcore.model/2"),
    (at("format")("qcore.model/2"), "of such layers has the format qcore.model/1"),
    (at(*HEAD, "sorted")(["rows"]), "of such layers has the format qcore.model/3"),
    (at(*HEAD, "sorted")(["neurons"]), "sorted"),
    (at(*PACKED, "cols")(10**30), r"packed\.cols"),
    (at(*PACKED, "cols")(-5), r"packed\.cols"),
    (at(*PACKED, "cols")(6), "head: "),
    (at(*PACKED, "shape")([10**15, 5]), r"packed\.shape"),
    (at(*PACKED, "shape")([5, 3]), r"head: weight \[5, 3\] in the file, \[3, 5\] in the network"),
    (at(*PACKED, "dtype")("Tensor"), "head: .*dtype"),
    (at(*PACKED, "dtype")("__class__"), "head: .*dtype"),
    (at(*PACKED, "encoding")("roman"), "head: unknown encoding 'roman'"),
    (at(*PACKED, "group_size")(0), r"packed\.group_size"),
    (at(*PACKED, "group_size")(3), "head: the scale"),
    (at(*PACKED, "blocks")([]), r"packed\.blocks"),
    (at(*PACKED, "blocks", 0, "codec")("zip@9"), "head: unknown codec 'zip@9'"),
    (at(*PACKED, "blocks", 0, "bits")(3), "head: codes have"),
    (at(*PACKED, "blocks", 0, "bits")(64), r"blocks\.0\.bits"),
    (at(*HEAD, "input")({"quantizer": "core/int", "bits": 77}), "head: .*options of core/int"),
    (at(*HEAD, "input")({"quantizer": "core/nope"}), "head: no loaded plugin offers"),
    (at(*HEAD, "input")({"quantizer": 5}), "head: .*names no quantizer"),
    (at("layers", "../../etc/passwd")(LAYER), "../../etc/passwd: the network has no such layer"),
    (at("layers", "blocks.7.linear")(LAYER), "blocks.7.linear: the network has no such layer"),
    (at("layers", "__class__")(LAYER), "__class__: the network has no such layer"),
    (at("layers", "forward")(LAYER), "forward: the network has no such layer"),
    (at("layers", "scaler")(LAYER), "scaler: a linear layer in the file, Standardize in the network"),
    (at("layers", "")(LAYER), "the model itself.*MLP in the network"),
    (at("model", "id")("core/nope"), "its network core/nope cannot be built: no loaded plugin offers"),
    (at("model", "id")("../../x"), "cannot be built"),
    (at("model", "config", "hidden")([9, 5]), r"blocks\.0\.linear: weight \[8, 10\] in the file, \[9, 10\]"),
    (at("model", "config", "post_norm")(False), r"blocks\.0\.post_norm\.bias: the network has no such tensor"),
    (at("model", "config", "rescale")(True), r"rescale\.mean: missing from the file"),
    (at("model", "config", "colour")("red"), "cannot be built: .*options of core/mlp"),
]


@pytest.mark.parametrize(("change", "words"), TAMPERED, ids=[words for _, words in TAMPERED])
def test_a_header_that_misstates_something_is_refused_by_that_entry(
    change: Callable[[Header, dict[str, Tensor]], object], words: str, tampered: Tamper
) -> None:
    refused(tampered(change), f"(?s){words}")


ABSURD: list[dict[str, Any]] = [
    {"id": "core/mlp", "config": {"in_features": 10**12, "out_features": 3}},
    {"id": "core/mlp", "config": {"in_features": 10**30, "out_features": 3}},
    {"id": "core/mlp", "config": {"in_features": 10, "out_features": 3, "hidden": [10**5, 10**5]}},
    {"id": "core/mlp", "config": {"in_features": 10, "out_features": 3, "hidden": [1] * 100_000}},
    {"id": "core/cnn", "config": {"in_channels": 1, "out_features": 3, "image_size": 8, "width": 10**6}},
    {"id": "core/cnn", "config": {"in_channels": 1, "out_features": 3, "image_size": 8, "blocks": 10**9}},
]


@pytest.fixture
def no_large_tensor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail if torch allocates more than 64 MB at once."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            assert not isinstance(out, Tensor) or out.nbytes < 1 << 26
            return out

    with Watch():
        yield


@pytest.mark.parametrize("architecture", ABSURD, ids=lambda architecture: str(architecture)[:90])
@pytest.mark.usefixtures("no_large_tensor")
def test_absurd_sizes_are_refused_before_memory_is_taken(architecture: dict[str, Any], tampered: Tamper) -> None:
    path = tampered(at("model")(architecture))
    tracemalloc.start()
    try:
        refused(path, "cannot be built")
        assert tracemalloc.get_traced_memory()[1] < 200 << 20
    finally:
        tracemalloc.stop()


def test_missing_and_surplus_tensors_are_all_named(saved: Path, tampered: Tamper) -> None:
    def change(header: Header, tensors: dict[str, Tensor]) -> None:
        for name in ("scaler.std", "scaler.mean"):
            del tensors[name]
        tensors["surplus"] = torch.zeros(2)

    message = refused(tampered(change), "does not fit its network")
    count = len(qcore.inspect(saved).tensors)
    assert f"{count - 1} tensors in the file, which was written with {count}" in message
    assert "scaler.mean: missing from the file" in message
    assert "scaler.std: missing from the file" in message
    assert "surplus: the network has no such tensor" in message


def rechecked(change: Callable[[Header, dict[str, Tensor]], None]) -> Callable[[Header, dict[str, Tensor]], None]:
    """Return ``change`` by one who also mends the checksums."""

    def mended(header: Header, tensors: dict[str, Tensor]) -> None:
        change(header, tensors)
        header["checksums"] = "".join(checksum(raw_bytes(tensors[name])) for name in sorted(tensors))

    return mended


CONSISTENT: list[tuple[Callable[[Header, dict[str, Tensor]], object], str]] = [
    (lambda _, t: t.pop("scaler.mean"), r"scaler\.mean: missing from the file"),
    (lambda _, t: t.pop("head.bias"), r"head\.bias: missing from the file"),
    (lambda _, t: t.pop("head.weight_scale"), "head: .*'scale'"),
    (lambda _, t: t.update(surplus=torch.zeros(2)), "surplus: the network has no such tensor"),
    (lambda _, t: t.update({"scaler.mean": torch.zeros(9)}), r"scaler\.mean: \(9,\).*\(10,\)"),
    (lambda _, t: t.update({"scaler.mean": torch.zeros(10, dtype=torch.int32)}), r"scaler\.mean: .*int32"),
    (lambda _, t: t.update({"head.bias": torch.zeros(4)}), r"head: bias \[4\].* in the file, \[3\] in the network"),
    (lambda _, t: t.update({"head.weight_scale": torch.zeros(3)}), "head: the scale"),
    (lambda _, t: t.update({"head.weight_codes_0": torch.zeros(3, 9, dtype=torch.uint8)}), "head: codes have"),
    (lambda _, t: t.update({"head.weight_codes_0": torch.zeros(3, 5)}), "head: codes have"),
    (
        lambda _, t: t.update({"blocks.1.linear.weight_zero_point": torch.full((5, 1), 9, dtype=torch.uint8)}),
        "blocks.1.linear: a zero point",
    ),
]


@pytest.mark.parametrize(("change", "words"), CONSISTENT, ids=[words for _, words in CONSISTENT])
def test_tensors_that_do_not_fit_the_network_are_refused_even_with_mended_checksums(
    change: Callable[[Header, dict[str, Tensor]], None], words: str, tampered: Tamper
) -> None:
    refused(tampered(rechecked(change)), f"(?s){words}")


def test_nothing_is_half_loaded(tampered: Tamper) -> None:
    twin = qcore.get("model", "core/mlp", in_features=10, out_features=3, hidden=(8, 5))
    before = {name: tensor.clone() for name, tensor in twin.state_dict().items()}
    kinds = [type(module) for module in twin.modules()]
    path = tampered(rechecked(lambda _, tensors: tensors.update({"head.bias": torch.zeros(4)})))
    with pytest.raises(ModelFileError):
        qcore.load(path, model=twin)
    assert [type(module) for module in twin.modules()] == kinds
    assert all(torch.equal(tensor, before[name]) for name, tensor in twin.state_dict().items())


def test_an_absent_plugin_is_named_with_what_brings_it_and_the_file_still_opens(tampered: Tamper) -> None:
    def change(header: Header, _: dict[str, Tensor]) -> None:
        header["plugins"] = {"some_method": {"distribution": "qcore-some-method", "version": "1.2"}}
        header["layers"]["head"]["weight"] = {"quantizer": "some_method/q"}

    path = tampered(change)
    message = refused(path, "needs the plugin some_method")
    assert "pip install qcore-some-method" in message
    file = qcore.inspect(path)
    assert file.missing_plugins({"core"}) == {"some_method": "qcore-some-method"}
    assert "head" in file.layers


def test_an_absent_local_plugin_gets_no_invented_distribution(tampered: Tamper) -> None:
    def change(header: Header, _: dict[str, Tensor]) -> None:
        local = {"distribution": None, "version": None}
        header["plugins"] = {"my_quant": local, "some_method": {"distribution": "qcore-other", "version": "1.2"}}
        header["layers"]["head"]["weight"] = {"quantizer": "my_quant/q"}

    path = tampered(change)
    message = refused(path, "needs the plugin my_quant, some_method")
    assert "qcore-my-quant" not in message
    assert "pip install qcore-other;" in message
    assert "my_quant was a local file: qcore.plugins.default().add(PATH, 'my_quant')" in message
    assert qcore.inspect(path).missing_plugins({"core"}) == {"my_quant": None, "some_method": "qcore-other"}


def test_a_file_of_a_plugin_is_refused_where_that_plugin_is_switched_off(tmp_path: Path) -> None:
    core_only = Framework(no_plugins=True).registry
    model = qcore.quantize(nn.Linear(4, 2), {"*": "core/int(bits=4)"}, registry=core_only)
    path = qcore.save(model, tmp_path / "m.safetensors", registry=core_only)
    assert isinstance(qcore.load(path, model=nn.Linear(4, 2), registry=core_only), nn.Module)
