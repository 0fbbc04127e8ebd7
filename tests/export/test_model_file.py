"""Model files: what is saved is what is loaded, and it is as small as its bits."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qcore
from qcore.errors import CalibrationError, ConfigError, ModelFileError, QcoreError, QuantizationError
from qcore.export import to_bytes
from qcore.nn import PackedLinear, QuantLinear, architecture_of
from qcore.quantizers import Quantizer
from qcore.quantizers.config import IntConfig
from qcore.quantizers.integer import IntQuantizer
from qcore.tensor import Encoded, QTensor

TOKEN = "core/int(granularity='token')"
STATIC = "core/int(granularity='tensor', dynamic=False)"
INT4 = {"*": {"weight": "core/int(bits=4)", "input": TOKEN}}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mlp(**options: Any) -> nn.Module:
    config: dict[str, Any] = {"in_features": 10, "out_features": 3, "hidden": (8, 5)} | options
    model: nn.Module = qcore.get("model", "core/mlp", **config)
    return model.eval()


def round_trip(saved: nn.Module, folder: Path, model: nn.Module | None = None) -> nn.Module:
    return qcore.load(qcore.save(saved, folder / "m.safetensors"), backend="reference", model=model)


def test_a_loaded_model_gives_the_eval_outputs_bit_for_bit(network: nn.Module, inputs: Tensor, saved: Path) -> None:
    loaded = qcore.load(saved, backend="reference")
    assert not loaded.training
    assert torch.equal(loaded(inputs), network(inputs))
    assert torch.equal(qcore.pack(network, "reference")(inputs), network(inputs))
    assert architecture_of(loaded) == architecture_of(network)
    assert [row["backend"] for row in qcore.explain(loaded).rows] == ["core/reference"] * 3


def test_saving_leaves_the_model_as_it_is(network: nn.Module, inputs: Tensor, tmp_path: Path) -> None:
    network.train()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    qcore.save(network, tmp_path / "m.safetensors")
    assert network.training
    assert isinstance(network.get_submodule("blocks.0.linear"), QuantLinear)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


def test_a_file_is_the_same_whether_packed_before_or_while_saving(network: nn.Module, saved: Path) -> None:
    metadata = {"classes": ["a", "b", "c"]}
    assert to_bytes(network, metadata=metadata) == to_bytes(qcore.pack(network), metadata=metadata)
    assert to_bytes(qcore.load(saved), metadata=metadata) == saved.read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("rules", [None, INT4, {"*": "core/int(bits=3)"}], ids=["float", "int", "weight only"])
def test_every_dtype_comes_back_as_it_was(dtype: torch.dtype, rules: dict[str, Any] | None, tmp_path: Path) -> None:
    model = (mlp() if rules is None else qcore.quantize(mlp(), rules)).to(dtype).eval()
    x = normal(6, 10).to(dtype)
    loaded = round_trip(model, tmp_path)
    assert torch.equal(loaded(x), model(x))
    assert {p.dtype for p in loaded.parameters()} == {dtype}


def test_static_ranges_come_back(tmp_path: Path) -> None:
    model = qcore.quantize(mlp(), {"*": {"weight": "core/int(bits=4)", "input": STATIC}})
    with pytest.raises(CalibrationError, match="calibrate"):
        round_trip(model, tmp_path)
    qcore.calibrate(model, [normal(20, 10)])
    x = normal(6, 10, seed=1) * 3
    assert torch.equal(round_trip(model, tmp_path)(x), model.eval()(x))


def test_layers_with_only_a_quantized_input_come_back(tmp_path: Path) -> None:
    rules = {"head": {"input": TOKEN}, "blocks.0.*": {"input": STATIC}, "blocks.1.*": INT4["*"]}
    model = qcore.calibrate(qcore.quantize(mlp(), rules), [normal(20, 10)]).eval()
    x = normal(6, 10)
    loaded = round_trip(model, tmp_path)
    assert torch.equal(loaded(x), model(x))
    again = qcore.load(tmp_path / "m.safetensors", model=model)
    assert torch.equal(again(x), model(x))


def test_a_network_of_ones_own_is_loaded_into_its_float_twin(tmp_path: Path) -> None:
    twin = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(36, 2))
    model = qcore.quantize(twin, INT4)
    x = normal(5, 3, 6, 6)
    before = copy.deepcopy(twin.state_dict())
    with pytest.raises(ModelFileError, match="model=twin"):
        round_trip(model, tmp_path)
    loaded = round_trip(model, tmp_path, model=twin)
    assert torch.equal(loaded(x), model.eval()(x))
    assert isinstance(twin[0], nn.Conv2d)
    assert all(torch.equal(tensor, before[name]) for name, tensor in twin.state_dict().items())
    assert torch.equal(round_trip(model, tmp_path, model=model)(x), model(x))


def test_a_model_that_is_one_layer_comes_back(tmp_path: Path) -> None:
    for layer, x in ((nn.Linear(6, 3), normal(4, 6)), (nn.Conv2d(2, 3, 3), normal(4, 2, 5, 5))):
        model = qcore.quantize(layer, INT4).eval()
        assert torch.equal(round_trip(model, tmp_path, model=layer)(x), model(x))


@pytest.mark.parametrize(
    ("twin", "words"),
    [
        (nn.Linear(6, 4), r"weight \[3, 6\] in the file, \[4, 6\] in the network"),
        (nn.Linear(6, 3, bias=False), "bias: True in the file, False"),
        (nn.Conv2d(6, 3, 1), "a linear layer in the file, Conv2d in the network"),
        (nn.Sequential(nn.Linear(6, 3)), "a linear layer in the file, Sequential in the network"),
    ],
)
def test_another_twin_is_refused(twin: nn.Module, words: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=words):
        round_trip(qcore.quantize(nn.Linear(6, 3), INT4), tmp_path, model=twin)


def test_a_twin_that_convolves_otherwise_is_refused(tmp_path: Path) -> None:
    model = qcore.quantize(nn.Conv2d(2, 4, 3, padding=1), INT4)
    for options in ({}, {"padding": 1, "stride": 2}, {"padding": 1, "padding_mode": "reflect"}):
        with pytest.raises(ModelFileError, match="walks as"):
            round_trip(model, tmp_path, model=nn.Conv2d(2, 4, 3, **options))


def test_a_quantized_twin_for_a_float_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="quantized in the network, but not in the file"):
        round_trip(nn.Linear(6, 3), tmp_path, model=qcore.quantize(nn.Linear(6, 3), {"*": "core/int(bits=2)"}))


def test_shared_layers_and_tied_weights_come_back_as_they_were(tmp_path: Path) -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c, self.d = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
            self.b = self.a
            self.d.weight = self.c.weight

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.d(self.c(self.b(self.a(x))))
            return out

    twin, x = Shared(), normal(3, 4)
    model = qcore.quantize(twin, {"a": INT4["*"], "b": INT4["*"]}).eval()
    loaded: Any = round_trip(model, tmp_path, model=twin)
    assert loaded.a is loaded.b
    assert loaded.c.weight is loaded.d.weight
    assert torch.equal(loaded(x), model(x))


@pytest.mark.parametrize("weight", ["core/int(bits=4)", "test/trits"])
def test_the_file_is_within_one_percent_of_its_tensors(weight: str, tmp_path: Path) -> None:
    model = mlp(in_features=1536, hidden=(640, 320), out_features=50)
    quantizer = Trits() if weight == "test/trits" else weight
    made = qcore.quantize(model, {"blocks.*": {"weight": quantizer, "input": TOKEN}})
    path = qcore.save(made, tmp_path / "m.safetensors")
    packed: Any = qcore.pack(made)
    stored = sum(tensor.numel() * tensor.element_size() for tensor in packed.state_dict().values())
    assert stored <= path.stat().st_size <= 1.01 * stored
    weights = 1536 * 640 + 640 * 320
    in_codes = weights // 2 if weight != "test/trits" else 640 * 308 + 320 * 128  # ceil(cols / 5) a row
    scales = 4 * (640 + 320)
    assert sum(block.linear.weight.nbytes for block in packed.blocks) == in_codes + scales
    described = qcore.inspect(path)
    assert described.tensors["blocks.0.linear.weight_codes_0"].nbytes == (
        1536 * 640 // 2 if "4" in weight else 640 * 308
    )


class Trits(IntQuantizer):
    """A ternary quantizer that no plugin offers: weights may come from anywhere, since a file holds their codes."""

    def __init__(self, config: IntConfig | None = None) -> None:
        super().__init__(IntConfig(bits=2))

    def encode(self, x: Tensor) -> Encoded:
        scale = x.detach().abs().mean(dim=1, keepdim=True)
        codes = (x.detach() / scale).round().clamp(-1, 1)
        return Encoded(codes, scale, x.shape, x.dtype, "ternary", 2)


class Mixed(IntQuantizer):
    """Rows of several widths."""

    encoding = "int"

    def encode(self, x: Tensor) -> Encoded:
        bits = torch.arange(len(x)) % 4 + 2
        top = ((1 << (bits - 1)) - 1).float()[:, None]
        scale = x.detach().abs().amax(dim=1, keepdim=True) / top
        codes = torch.minimum(torch.maximum((x.detach() / scale).round(), -top), top)
        return Encoded(codes, scale, x.shape, x.dtype, self.encoding, bits)


def test_rows_of_several_widths_come_back(tmp_path: Path) -> None:
    layer, x = nn.Linear(10, 9), normal(4, 10)
    model = qcore.quantize(layer, {"*": {"weight": Mixed(), "input": TOKEN}}).eval()
    loaded: Any = round_trip(model, tmp_path, model=layer)
    assert torch.equal(loaded(x), model(x))
    assert isinstance(loaded.weight, QTensor)
    assert [block.bits for block in loaded.weight.blocks] == [2, 3, 4, 5]


class MixedSymmetric(Mixed):
    """The same numbers, those of 2 bits as trits."""

    encoding = "symmetric"


def test_the_symmetric_encoding_comes_back_in_the_same_format(tmp_path: Path) -> None:
    layer, x = nn.Linear(10, 9), normal(4, 10)
    model = qcore.quantize(layer, {"*": {"weight": MixedSymmetric(), "input": TOKEN}}).eval()
    path = qcore.save(qcore.pack(model), tmp_path / "mixed.safetensors")
    assert qcore.inspect(path).header["format"] == "qcore.model/1"
    loaded: Any = qcore.load(path, model=layer)
    assert torch.equal(loaded(x), model(x))
    assert loaded.weight.codecs == {2: "trit5@1", 3: "packn@1", 4: "packn@1", 5: "packn@1"}


def test_an_input_quantizer_that_nobody_offers_cannot_be_saved(tmp_path: Path) -> None:
    model = qcore.quantize(nn.Linear(6, 3), {"*": {"weight": "core/int", "input": Trits()}})
    with pytest.raises(ModelFileError, match="Trits is not registered"):
        qcore.save(model, tmp_path / "m.safetensors")
    made_by_hand: Quantizer = IntQuantizer(IntConfig(granularity="token"))
    known = qcore.quantize(nn.Linear(6, 3), {"*": {"weight": "core/int", "input": made_by_hand}})
    round_trip(known, tmp_path, model=nn.Linear(6, 3))


def test_inspecting_tells_what_is_inside(saved: Path) -> None:
    file = qcore.inspect(saved)
    assert file.nbytes == saved.stat().st_size
    assert file.architecture is not None
    assert file.architecture["id"] == "core/mlp"
    assert file.extra == {"classes": ["a", "b", "c"]}
    assert list(file.layers) == ["blocks.0.linear", "blocks.1.linear", "head"]
    assert file.layers["head"]["packed"]["group_size"] == 2
    assert file.layers["blocks.0.linear"]["weight"]["quantizer"] == "core/int"
    assert file.plugins == {}
    assert file.tensors.keys() == file.checksums.keys()
    info = file.tensors["blocks.0.linear.weight_codes_0"]
    assert (info.dtype, info.shape, info.nbytes) == ("U8", (8, 5), 40)


def test_metadata_must_be_json(network: nn.Module, tmp_path: Path) -> None:
    for metadata in ({"x": object()}, {"x": float("nan")}, {"x": torch.zeros(2)}):
        with pytest.raises(ModelFileError, match="JSON"):
            qcore.save(network, tmp_path / "m.safetensors", metadata=metadata)
    assert not list(tmp_path.iterdir())


def test_weights_that_training_broke_are_refused_and_nothing_is_written(network: Any, tmp_path: Path) -> None:
    network.head.weight.data[0, 0] = float("inf")
    with pytest.raises(QuantizationError, match=r"head\.weight"):
        qcore.save(network, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_no_file_can_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="weight cannot be stored"):
        qcore.save(nn.Linear(2, 2, device="meta"), tmp_path / "m.safetensors")

    class Stateful(nn.Linear):
        def get_extra_state(self) -> object:
            return {"a": 1}

    with pytest.raises(ModelFileError, match="_extra_state cannot be stored"):
        qcore.save(Stateful(2, 2), tmp_path / "m.safetensors")


def test_transposed_and_shared_tensors_are_stored_in_full(tmp_path: Path) -> None:
    model = nn.Linear(4, 3)
    model.weight.data = normal(4, 3).t()
    loaded: Any = round_trip(model, tmp_path, model=nn.Linear(4, 3))
    assert torch.equal(loaded.weight, model.weight)


def test_the_backend_that_is_named_is_the_one_that_runs(saved: Path) -> None:
    with pytest.raises(QcoreError, match="referense"):
        qcore.load(saved, backend="referense")
    packed: Any = qcore.load(saved, backend="core/reference")
    assert isinstance(packed.head, PackedLinear)


def test_loading_touches_no_global_random_state(saved: Path) -> None:
    before = torch.get_rng_state()
    qcore.load(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_rule_that_asks_too_much_is_a_config_error_and_not_a_file_error() -> None:
    with pytest.raises(ConfigError):
        qcore.quantize(mlp(), {"*": "core/int(bits=99)"})
