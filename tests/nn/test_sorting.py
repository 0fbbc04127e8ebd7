"""Neurons between two packed layers are sorted by their widths where nobody can tell, and nowhere else."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qcore
from qcore.errors import ModelFileError
from qcore.nn.config import MLPConfig
from qcore.nn.layers import QuantLinear
from qcore.nn.mlp import build_mlp
from qcore.nn.order import chains, parts_of
from qcore.nn.packed import PackedLinear
from qcore.nn.packing import explain
from qcore.quantizers import Quantizer, make_quantizer
from qcore.tensor import ActivationScheme, Columns, Encoded
from qcore.testing.column_problems import column_scheme

TOKEN, STATIC = "core/int(bits=8, granularity='token')", "core/int(bits=8, granularity='tensor', dynamic=False)"


class RowWidths(Quantizer):
    """Odd codes of 1, 2, 4 or 8 bits, a width for each row, in no order."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def encode(self, x: Tensor) -> Encoded:
        bits = self.widths(len(x))
        top = (2.0**bits - 1)[:, None]
        scale = x.abs().amax(dim=1, keepdim=True) / top
        codes = (((x / scale + top) / 2).round().clamp(min=torch.zeros_like(top), max=top) * 2 - top).float()
        return Encoded(codes, scale.float(), x.shape, x.dtype, "odd", bits)

    def widths(self, rows: int) -> Tensor:
        drawn = torch.Generator().manual_seed(self.seed)
        return torch.tensor([1, 2, 4, 8])[torch.randint(0, 4, (rows,), generator=drawn)]

    def bits(self) -> Tensor:
        return torch.tensor(4.0)


class SymmetricWidths(RowWidths):
    """Symmetric codes of 1, 2, 3 or 8 bits, a width for each row, in no order."""

    def encode(self, x: Tensor) -> Encoded:
        bits = torch.tensor([0, 1, 2, 0, 3, 0, 0, 0, 8])[self.widths(len(x))]
        top = (2.0 ** (bits - 1) - 1).clamp_min(1)[:, None]
        scale = x.abs().amax(dim=1, keepdim=True) / top
        rounded = torch.where(bits[:, None] == 1, torch.where(x > 0, 1.0, -1.0), (x / scale).round())
        return Encoded(rounded.clamp(min=-top, max=top).float(), scale.float(), x.shape, x.dtype, "symmetric", bits)


class ColumnWidths(Quantizer):
    """Inputs of 4, 8 or 16 bits, a width and a clip for each column."""

    def __init__(self, cols: int, most: int = 16) -> None:
        super().__init__()
        drawn = torch.Generator().manual_seed(cols)
        widths = torch.tensor([4, 8, 16])[torch.randint(0, 3, (cols,), generator=drawn)].clamp_max(most)
        columns = column_scheme(widths, 0.2 + torch.rand(cols, generator=drawn), symmetric=False).columns
        assert columns is not None
        self.inverse, self.largest, self.step = columns.inverse, columns.largest, columns.step
        self.unit, self.grid = columns.scale, 16 if most == 16 else 8

    def scheme(self) -> ActivationScheme:
        columns = Columns(self.inverse, self.largest, self.step, self.unit)
        return ActivationScheme(self.grid, symmetric=False, per_token=False, columns=columns)

    def encode(self, x: Tensor) -> Encoded:
        return self.scheme().encode(x)

    def permute_columns(self, order: Tensor) -> bool:
        self.inverse, self.largest, self.step = self.inverse[:, order], self.largest[:, order], self.step[:, order]
        return True

    def bits(self) -> Tensor:
        return torch.tensor(8.0)


def layer(rows: int, cols: int, inputs: Quantizer | str | None, *, seed: int = 0, bias: bool = True) -> QuantLinear:
    torch.manual_seed(seed)
    quantizer = make_quantizer(inputs) if isinstance(inputs, str) else inputs
    return QuantLinear(nn.Linear(cols, rows, bias=bias), RowWidths(seed), quantizer)


def network(*between: nn.Module, inputs: Quantizer | str | None = TOKEN, hidden: int = 70) -> nn.Sequential:
    model = nn.Sequential(layer(hidden, 33, TOKEN), *(between or (nn.ReLU(),)), layer(5, hidden, inputs, seed=3))
    return model.eval()


def packed(model: nn.Module, path: str) -> PackedLinear:
    found = model.get_submodule(path)
    assert isinstance(found, PackedLinear)
    return found


def x_of(rows: int = 9, cols: int = 33) -> Tensor:
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(7))


@settings(max_examples=20, deadline=None)
@given(hidden=st.integers(1, 80), seed=st.integers(0, 9), kind=st.sampled_from(["token", "8 bits", "16 bits"]))
def test_integer_layers_give_the_same_bits(hidden: int, seed: int, kind: str) -> None:
    inputs = {"token": TOKEN, "8 bits": ColumnWidths(hidden, 8), "16 bits": ColumnWidths(hidden)}[kind]
    model = nn.Sequential(
        layer(hidden, 33, TOKEN, seed=seed), nn.ReLU(), nn.Dropout(), layer(hidden, hidden, inputs, seed=seed + 1),
        nn.LeakyReLU(), layer(4, hidden, TOKEN, seed=seed),
    ).eval()  # fmt: skip
    sorted_model = qcore.pack(model, backend="core/reference")
    assert torch.equal(sorted_model(x_of()), model(x_of()))
    for path in ("0", "3"):
        assert packed(sorted_model, path).weight.row_order is None
        assert packed(sorted_model, path).weight.row_bits().tolist() == sorted(
            packed(sorted_model, path).weight.row_bits().tolist()
        )


def test_neurons_stand_by_row_bits_and_then_by_column_bits() -> None:
    sorted_model = qcore.pack(network(inputs=ColumnWidths(70)), backend="core/reference")
    scheme = packed(sorted_model, "2").request().activation
    assert scheme is not None and scheme.columns is not None
    bits, steps = packed(sorted_model, "0").weight.row_bits(), scheme.columns.step[0]
    keys = list(zip(bits.tolist(), (-steps).tolist(), strict=True))
    assert keys == sorted(keys)


def test_sorting_keeps_the_codec_of_each_width() -> None:
    hidden = QuantLinear(nn.Linear(33, 70), SymmetricWidths(), make_quantizer(TOKEN))
    model = nn.Sequential(hidden, nn.ReLU(), layer(5, 70, TOKEN)).eval()
    sorted_model = qcore.pack(model, backend="core/reference")
    assert torch.equal(sorted_model(x_of()), model(x_of()))
    weight = packed(sorted_model, "0").weight
    assert (weight.row_order, weight.encoding) == (None, "symmetric")
    assert weight.codecs == {1: "packn@1", 2: "trit5@1", 3: "packn@1", 8: "packn@1"}


def test_columns_alone_are_a_reason_to_sort() -> None:
    model = nn.Sequential(
        QuantLinear(nn.Linear(33, 20), make_quantizer("core/int(bits=4)"), make_quantizer(TOKEN)),
        nn.ReLU(),
        layer(5, 20, ColumnWidths(20)),
    ).eval()
    sorted_model = qcore.pack(model, backend="core/reference")
    assert torch.equal(sorted_model(x_of()), model(x_of()))
    scheme = packed(sorted_model, "2").request().activation
    assert scheme is not None and scheme.columns is not None and bool((scheme.columns.step.diff() <= 0).all())


def test_weight_only_layers_stay_within_the_bound_that_they_state() -> None:
    model = nn.Sequential(layer(70, 33, None), nn.ReLU(), layer(5, 70, None, seed=3)).eval()
    sorted_model = qcore.pack(model, backend="core/reference")
    first, second = packed(sorted_model, "0"), packed(sorted_model, "2")
    assert first.choice is not None and first.choice.kernel.bound == 0
    assert second.choice is not None and second.choice.kernel.bound > 0
    wanted, y = model(x_of()), sorted_model(x_of())
    assert (y - wanted).abs().max().item() <= second.choice.kernel.bound * wanted.abs().max().item()


def test_the_model_given_is_left_alone() -> None:
    columns = ColumnWidths(70)
    model, before = network(inputs=columns), columns.step.clone()
    weights = [parameter.clone() for parameter in model.parameters()]
    qcore.pack(model)
    assert torch.equal(columns.step, before)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), weights, strict=True))


class Silent(ColumnWidths):
    def permute_columns(self, order: Tensor) -> bool:
        return False


class Twice(nn.Module):
    """Reads the hidden layer twice, without saying so."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(network())

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.parts[1](self.parts[0](x))
        return self.parts[2](hidden) + hidden[:, :5]


def hooked() -> nn.Sequential:
    model = network()
    model[1].register_forward_hook(lambda module, args, out: None)
    return model


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: network(nn.LayerNorm(70)), "LayerNorm between them minds"),
        (lambda: network(nn.BatchNorm1d(70), nn.ReLU()), "BatchNorm1d between them minds"),
        (lambda: network(nn.Tanh()), "Tanh between them minds"),
        (lambda: network(inputs=Silent(70)), "does not say how its columns are reordered"),
        (hooked, "has hooks"),
        (Twice, None),
    ],
    ids=["layer norm", "batch norm", "tanh", "quantizer", "hook", "own forward"],
)
def test_what_minds_the_order_keeps_it(make: Any, told: str | None) -> None:
    model = make().eval()
    same = qcore.pack(model, backend="core/reference")
    assert torch.equal(same(x_of()), model(x_of()))
    orders = [module.weight.row_order for module in same.modules() if isinstance(module, PackedLinear)]
    assert orders[0] is not None
    found = explain(same)
    if told is None:
        assert not found.sortings
    else:
        assert told in str(found) and not found.sortings[0].sorted


def test_a_layer_that_stands_twice_keeps_its_order() -> None:
    shared = layer(33, 33, TOKEN)
    model = nn.Sequential(shared, nn.ReLU(), shared).eval()
    same = qcore.pack(model, backend="core/reference")
    assert torch.equal(same(x_of()), model(x_of()))
    assert packed(same, "0").weight.row_order is not None


def test_folded_batch_norms_move_along() -> None:
    norm = nn.BatchNorm1d(70)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    model = network(norm, nn.ReLU())
    ours = qcore.pack(model, backend="core/reference", fold=True)
    assert packed(ours, "0").weight.row_order is None and packed(ours, "0").folded == "1"
    assert (ours(x_of()) - model(x_of())).abs().max() < 0.1 * model(x_of()).abs().max()


def test_explain_says_what_was_sorted() -> None:
    found = explain(qcore.pack(network(), backend="core/reference"))
    assert [(one.first, one.second, one.sorted) for one in found.sortings] == [("0", "2", True)]
    assert "0 -> 2: neurons sorted by their widths" in str(found)


def test_files_keep_what_was_sorted(tmp_path: Path) -> None:
    model = nn.Sequential(layer(70, 33, TOKEN), nn.ReLU(), layer(5, 70, None, seed=3)).eval()
    sorted_model = qcore.pack(model, backend="core/reference")
    twin = nn.Sequential(nn.Linear(33, 70), nn.ReLU(), nn.Linear(70, 5))
    for name, saved in (("packed", sorted_model), ("quantized", model)):
        path = qcore.save(saved, tmp_path / f"{name}.safetensors")
        assert qcore.inspect(path).header["format"] == "qcore.model/3"
        loaded = qcore.load(path, model=twin, backend="core/reference")
        assert torch.equal(loaded(x_of()), sorted_model(x_of()))
        assert packed(loaded, "2").sorted_columns
        choice = packed(loaded, "2").choice
        assert choice is not None and choice.kernel.bound > 0


def test_a_file_that_misstates_what_is_sorted_is_refused(tmp_path: Path) -> None:
    path = qcore.save(qcore.pack(network(), backend="core/reference"), tmp_path / "model.safetensors")
    data, said = path.read_bytes(), rb"\"sorted\":[\"rows\"]"
    assert data.count(said) == 1
    lied = data.replace(said, rb"\"sorted\":[\"columns\"]")
    length = int.from_bytes(data[:8], "little") + len(lied) - len(data)
    path.write_bytes(length.to_bytes(8, "little") + lied[8:])
    twin = nn.Sequential(nn.Linear(33, 70), nn.ReLU(), nn.Linear(70, 5))
    with pytest.raises(ModelFileError, match="row order, or are sorted"):
        qcore.load(path, model=twin, backend="core/reference")


def mlp(**options: Any) -> nn.Module:
    config = MLPConfig(in_features=33, out_features=4, hidden=(40, 50), **options)
    model = build_mlp(config, torch.Generator().manual_seed(0))
    for i, path in enumerate(("blocks.0.linear", "blocks.1.linear", "head")):
        linear = model.get_submodule(path)
        assert isinstance(linear, nn.Linear)
        quantized = QuantLinear(linear, RowWidths(i), make_quantizer(TOKEN))
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, quantized)
    return model.eval()


def test_the_networks_of_qcore_say_how_their_parts_run() -> None:
    model = mlp(pre_norm=False, post_norm=False)
    sorted_model = qcore.pack(model, backend="core/reference")
    assert torch.equal(sorted_model(x_of()), model(x_of()))
    found = explain(sorted_model).sortings
    assert [(one.first, one.second) for one in found] == [
        ("blocks.0.linear", "blocks.1.linear"),
        ("blocks.1.linear", "head"),
    ]
    assert all(one.sorted for one in found)
    normed = explain(qcore.pack(mlp(), backend="core/reference")).sortings
    assert all(not one.sorted and "LayerNorm" in str(one.reason) for one in normed)


class Ordered(nn.Module):
    in_order: ClassVar[tuple[str, ...]] = ("a", "b")

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x))


class Reordered(Ordered):
    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.b(x))


class LikeSequential(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return self[0](x)


def test_what_runs_in_order_is_what_its_class_says() -> None:
    assert parts_of(Ordered()) == ["a", "b"]
    assert parts_of(nn.Sequential(nn.ReLU())) == ["0"]
    own = nn.Sequential(nn.ReLU())
    own.forward = lambda x: x  # type: ignore[method-assign, assignment]
    for module in (Reordered(), LikeSequential(nn.ReLU()), nn.ReLU(), own):
        assert parts_of(module) is None


def test_chains_join_what_lies_within_and_end_at_what_is_watched() -> None:
    model = nn.Sequential(nn.ReLU(), Ordered(), nn.Sequential(nn.ReLU(), nn.ReLU()))
    assert chains(model) == [["0", "1.a", "1.b", "2.0", "2.1"]]
    model[2].register_forward_hook(lambda module, args, out: None)
    assert sorted(chains(model)) == [["0", "1.a", "1.b", "2"], ["2.0", "2.1"]]
    assert chains(copy.deepcopy(Reordered())) == []
