"""Folded batch norms: the same integer sums, other scales, and outputs within float rounding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import qcore
from qcore.backends.plan import BatchNorm, Value
from qcore.errors import UsageError
from qcore.nn import PackedConv2d, PackedLayer, PackedLinear
from qcore.nn.folding import batch_norms
from qcore.tensor.arithmetic import Conv2dShape
from qcore.tensor.layers import conv2d, encode_images, linear

TOKEN = "core/int(granularity='token')"
INT4 = {"*": {"weight": "core/int(bits=4)", "input": TOKEN}}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def drawn(model: nn.Module, seed: int, spread: float = 1.0) -> Any:
    """Fill a model, its statistics as well; gammas of both signs, and one of zero."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point():
                tensor.data = torch.randn(tensor.shape, generator=generator)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var.copy_(10 ** (spread * module.running_var))
            module.running_mean.mul_(spread)  # type: ignore[union-attr]
            if module.weight is not None and len(module.weight) > 2:
                module.weight.data[1] = 0.0
    return model.eval()


def image_pair(*, bias: bool = True, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, bias=bias, groups=groups), nn.BatchNorm2d(6))


def row_pair(*, bias: bool = True, affine: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Linear(14, 6, bias=bias), nn.BatchNorm1d(6, affine=affine))


WEIGHTS = st.builds(
    "core/int(bits={}, granularity='{}', {})".format,
    st.integers(2, 8),
    st.sampled_from(["tensor", "row"]),
    st.sampled_from(["", "symmetric=False"]),
)


@settings(max_examples=60, deadline=None)
@given(
    weight=WEIGHTS,
    input=st.sampled_from([TOKEN, "core/int(granularity='token', symmetric=False)"]),
    pair=st.sampled_from(
        [
            row_pair(),
            row_pair(bias=False),
            row_pair(affine=False),
            image_pair(),
            image_pair(bias=False, groups=2),
        ]
    ),
    seed=st.integers(0, 1000),
    spread=st.sampled_from([0.0, 1.0, 6.0]),
)
def test_a_folded_layer_is_within_its_bound_of_eval(
    weight: str, input: str, pair: nn.Sequential, seed: int, spread: float
) -> None:
    model = drawn(qcore.quantize(pair, {"*": {"weight": weight, "input": input}}), seed, spread)
    image = isinstance(pair[0], nn.Conv2d)
    x = normal(3, 4, 5, 6, seed=seed) if image else normal(5, 14, seed=seed)
    folded: Any = qcore.pack(model, "reference", fold=True)
    assert isinstance(folded[1], nn.Identity)
    assert isinstance(folded[0], PackedLayer)
    multiplier, offset = numbers(model[1])
    across = (-1, 1, 1) if image else (-1,)
    layer = qcore.pack(model[0], "reference")
    bias = torch.zeros(6) if layer.bias is None else layer.bias
    product = (layer(x) - bias.view(across)).abs() * multiplier.view(across).abs()
    limit = 2**-20 * (product + ((multiplier * bias).abs() + offset.abs()).view(across))
    assert bool(((folded(x) - model(x)).abs() <= limit).all())
    assert torch.equal(folded(x), by_hand(folded[0], x))


def numbers(norm: Any) -> tuple[Tensor, Tensor]:
    step = BatchNorm((Value(0),), Value(1), "", norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)
    return step.folded()


def by_hand(layer: Any, x: Tensor) -> Tensor:
    """Return the one arithmetic on the folded scales and bias: exact sums, then two products and a sum."""
    scheme, weight = layer.request().activation, layer.weight.unpack()
    if isinstance(layer, PackedConv2d):
        return conv2d(encode_images(x, scheme), weight, layer.bias, layer.shape)
    return linear(scheme.encode(x), weight, layer.bias)


@pytest.mark.parametrize("bias", [False, True])
def test_scales_and_bias_are_those_of_the_formula(bias: bool) -> None:
    model = drawn(qcore.quantize(row_pair(bias=bias), INT4), 3)
    plain: Any = qcore.pack(model[0], "reference")
    folded: Any = qcore.pack(model, "reference", fold=True)[0]  # type: ignore[index]
    multiplier, offset = numbers(model[1])
    assert bool((multiplier < 0).any())
    assert torch.equal(folded.weight.scale, plain.weight.scale * multiplier[:, None])
    assert torch.equal(folded.weight.unpack().codes, plain.weight.unpack().codes)
    expected = offset.double() + (multiplier.double() * plain.bias.double() if bias else 0)
    assert torch.equal(folded.bias, expected.float())


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("input", [None, TOKEN])
def test_group_scales_and_weight_only_layers_fold_too(bits: int, input: str | None) -> None:
    weight = f"core/int(bits={bits}, granularity='group', group_size=4, symmetric=False)"
    rule: Any = weight if input is None else {"weight": weight, "input": input}
    model = drawn(qcore.quantize(row_pair(), {"*": rule}), bits)
    x = normal(9, 14)
    folded = qcore.pack(model, "reference", fold=True)
    inputs = x if input is None else model[0].input_quantizer(x)
    terms = nn.functional.linear(inputs.abs(), model[0].fake_weight().abs())
    multiplier, offset = numbers(model[1])
    limit = 2**-23 * (14 + 8) * ((terms + model[0].bias.abs()) * multiplier.abs() + offset.abs())
    assert bool(((folded(x) - model(x)).abs() <= limit).all())


def test_whole_networks_fold_on_every_backend_alike() -> None:
    parts: list[nn.Module] = [*image_pair(bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 7 * 5, 9)]
    model = drawn(qcore.quantize(nn.Sequential(*parts, nn.BatchNorm1d(9), nn.ReLU(), nn.Linear(9, 3)), INT4), 5)
    x = normal(8, 4, 7, 5)
    folded, expected = qcore.pack(model, fold=True), model(x).detach()
    assert torch.equal(folded(x), qcore.pack(model, "reference", fold=True)(x))
    assert torch.equal(folded(x), qcore.pack(qcore.pack(model), fold=True)(x))
    # A number on the edge between two codes of the next layer's input may fall to the other side.
    torch.testing.assert_close(folded(x), expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))
    assert [(norm.path, norm.layer, norm.folded) for norm in qcore.explain(folded).norms] == [
        ("1", "0", True),
        ("5", "4", True),
    ]
    assert "1: batch norm folded into 0" in str(qcore.explain(folded))
    assert torch.equal(qcore.compile_plan(folded)(x), folded(x))


def test_folding_leaves_the_model_alone_unless_in_place() -> None:
    model = qcore.quantize(row_pair(), INT4).train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    folded = qcore.pack(model, fold=True)
    assert model.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    packed: Any = qcore.pack(model)
    assert isinstance(packed[1], nn.BatchNorm1d)
    again = qcore.pack(packed, fold=True, inplace=True)
    assert again is packed
    assert isinstance(packed[1], nn.Identity)
    assert torch.equal(packed(normal(4, 14)), folded(normal(4, 14)))


def reasons(model: nn.Module) -> dict[str, str | None]:
    return {norm.path: norm.reason for norm in batch_norms(model)}


class Own(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return self[0](x)


def shared() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.BatchNorm1d(6), layer)


def hooked() -> nn.Module:
    model = row_pair()
    model[1].register_forward_hook(lambda *_: None)
    return model


def extreme() -> nn.Module:
    model = row_pair()
    with torch.no_grad():
        model[1].weight[0] = 1e-38
    return model


def infinite() -> nn.Module:
    model = row_pair()
    with torch.no_grad():
        model[1].bias[0] = torch.inf
    return model


@pytest.mark.parametrize(
    ("model", "path", "words"),
    [
        (nn.Sequential(nn.Linear(14, 6), nn.ReLU(), nn.BatchNorm1d(6)), "2", "does not directly follow"),
        (nn.Sequential(nn.BatchNorm1d(14), nn.Linear(14, 6)), "0", "does not directly follow"),
        (Own(*row_pair()), "1", "does not directly follow"),
        (shared(), "1", "several places"),
        (hooked(), "1", "hooks"),
        (nn.Sequential(nn.Linear(14, 6), nn.BatchNorm1d(6, track_running_stats=False)), "1", "running statistics"),
        (nn.Sequential(nn.Linear(14, 6), nn.BatchNorm1d(3)), "1", "3 channels"),
        (row_pair().bfloat16(), "1", "float32"),
        (extreme(), "1", "normal float32"),
        (infinite(), "1", "not finite"),
    ],
)
def test_a_batch_norm_that_stays_has_a_reason(model: nn.Module, path: str, words: str) -> None:
    quantized = qcore.quantize(model.eval(), INT4)
    if any(norm._forward_hooks for norm in model.modules()):
        quantized[1].register_forward_hook(lambda *_: None)  # type: ignore[index, operator]
    packed = qcore.pack(quantized, "reference", fold=True)
    assert type(packed.get_submodule(path)) is type(model.get_submodule(path))
    (norm,) = qcore.explain(packed).norms
    assert (norm.path, norm.folded) == (path, False)
    assert words in str(norm)


def test_only_what_is_packed_takes_its_batch_norm() -> None:
    model = nn.Sequential(*row_pair(), nn.ReLU(), nn.Linear(6, 6), nn.BatchNorm1d(6)).eval()
    packed = qcore.pack(qcore.quantize(model, {"0": INT4["*"]}))
    assert reasons(packed)["1"] is None
    assert "pack(model, fold=True) would fold it" in str(qcore.explain(packed))
    assert "does not directly follow a packed linear layer" in str(reasons(packed)["4"])
    assert qcore.explain(model).norms == []


def test_a_folded_linear_layer_takes_rows_alone() -> None:
    folded = qcore.pack(qcore.quantize(row_pair().eval(), INT4), fold=True)
    with pytest.raises(UsageError, match="takes \\(rows, features\\)"):
        folded(normal(6, 6, 14))
    with pytest.raises(UsageError, match="takes \\(rows, 14\\)"):
        qcore.compile_plan(folded)(normal(6, 6, 14))
    assert isinstance(folded[0], PackedLinear)  # type: ignore[index]
    assert "batch norm 1 folded" in repr(folded)


def test_padding_of_a_folded_convolution_is_that_of_the_layer() -> None:
    pair = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(3))
    model = drawn(qcore.quantize(pair, INT4), 1)
    folded: Any = qcore.pack(model, "reference", fold=True)
    assert folded[0].shape == Conv2dShape() and folded[0].padding_mode == "reflect"
    torch.testing.assert_close(folded(normal(2, 2, 5, 5)), model(normal(2, 2, 5, 5)), rtol=1e-4, atol=1e-4)
