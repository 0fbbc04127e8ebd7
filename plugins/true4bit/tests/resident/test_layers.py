from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qcore.errors import UsageError
from qcore.nn import set_generator
from qcore_true4bit.resident import ResidentConfig, ResidentConv2d, ResidentLayer, ResidentLinear


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear(bias: bool = True, **options: Any) -> ResidentLinear:
    layer = nn.Linear(9, 5, bias=bias)
    nn.init.normal_(layer.weight, generator=seeded())
    return ResidentLinear(layer, ResidentConfig(**options), seeded())


def conv(kind: type[nn.Conv2d] = nn.Conv2d, residual: bool = False, **options: Any) -> ResidentConv2d:
    layer = kind(4, 6, 3, **options)
    nn.init.normal_(layer.weight, generator=seeded())
    return ResidentConv2d(layer, ResidentConfig(residual=residual), seeded())


CASES = [
    (linear, {}, (7, 9)),
    (linear, {"bias": False}, (2, 3, 9)),
    (linear, {}, (9,)),
    (conv, {}, (2, 4, 6, 5)),
    (conv, {"stride": 2, "padding": 1, "groups": 2}, (2, 4, 7, 7)),
    (conv, {"padding": "same", "dilation": 2, "bias": False}, (2, 4, 6, 6)),
    (conv, {"padding": 1, "padding_mode": "circular"}, (2, 4, 5, 5)),
    (conv, {"padding": 1}, (4, 5, 5)),
]


def plain(layer: ResidentLayer, x: Tensor, weight: Tensor) -> Tensor:
    if isinstance(layer, ResidentLinear):
        return F.linear(x, weight, layer.bias)
    assert isinstance(layer, ResidentConv2d)
    if layer.padding_mode == "circular":
        x, padding = F.pad(x, layer.reversed_padding, mode="circular"), (0, 0)
    else:
        padding = layer.walk.padding
    return F.conv2d(x, weight, layer.bias, layer.walk.stride, padding, layer.walk.dilation, layer.walk.groups)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("make", "options", "shape"), CASES)
def test_gradients_are_those_of_the_dequantized_weight(make: Any, options: Any, shape: Any, training: bool) -> None:
    layer = make(**options).train(training)
    x = torch.randn(shape, generator=seeded(1)).requires_grad_()
    given = torch.randn(layer(x).shape, generator=seeded(2))
    weight = (layer.integer_codes() * layer.scale.unsqueeze(1)).view(layer.shape).requires_grad_()
    trained = [tensor for tensor in (x, weight, layer.bias) if tensor is not None]
    dx, dw, *db = torch.autograd.grad(plain(layer, x, weight), trained, given)
    layer(x).backward(given)
    assert x.grad is not None and torch.allclose(x.grad, dx, rtol=1e-5, atol=1e-5)
    expected = (dw * weight).flatten(1).sum(1) / (layer.cols * 7) ** 0.5
    assert torch.allclose(layer.log_gain.grad, expected, rtol=1e-4, atol=1e-5)
    if layer.bias is not None:
        assert torch.allclose(layer.bias.grad, db[0], rtol=1e-5, atol=1e-5)


def test_the_output_is_that_of_the_dequantized_weight_in_every_mode() -> None:
    for layer, x in ((linear(), torch.randn(3, 9)), (conv(padding=1), torch.randn(2, 4, 5, 5))):
        with torch.no_grad():
            expected = plain(layer, x, layer.weight_values())
            assert torch.equal(layer(x), expected)
        assert torch.equal(layer(x), expected)
        assert torch.equal(layer.eval()(x), expected)


@pytest.mark.parametrize("residual", [True, False])
def test_codes_stay_in_range_and_change(residual: bool) -> None:
    layer = linear(residual=residual)
    layer.lr = 0.5
    before = layer.codes.clone()
    for seed in range(20):
        layer(torch.randn(4, 9, generator=seeded(seed))).square().sum().backward()
        low, high = layer.integer_codes().aminmax()
        assert -7 <= low <= high <= 7
    assert not torch.equal(before, layer.codes)


def test_the_first_layer_learns_without_a_gradient_of_its_input_or_parameters() -> None:
    layer = linear(bias=False, learn_scale=False)
    layer.lr = 0.5
    before = layer.codes.clone()
    layer(torch.ones(2, 9)).sum().backward()
    assert not torch.equal(before, layer.codes)
    assert layer.log_gain.grad is None


@pytest.mark.parametrize("how", ["lr", "eval", "no_grad"])
def test_what_does_not_train_changes_nothing(how: str) -> None:
    layer = linear(residual=True)
    if how == "lr":
        layer.lr = 0.0
    else:
        layer.train(how != "eval")
    before = copy.deepcopy(dict(layer.named_buffers()))
    with torch.set_grad_enabled(how != "no_grad"):
        output = layer(torch.ones(2, 9).requires_grad_())
    if how != "no_grad":
        output.sum().backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.named_buffers())


def test_no_float_of_the_weights_size_is_kept() -> None:
    layer = conv(residual=True)
    layer(torch.randn(2, 4, 6, 6)).sum().backward()
    held = [*layer.parameters(), *layer.buffers(), *(p.grad for p in layer.parameters() if p.grad is not None)]
    held += [value for module in layer.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    assert all(tensor.numel() < layer.rows * layer.cols for tensor in held if tensor.is_floating_point())
    assert sum(tensor.numel() for tensor in held if tensor.dtype == torch.uint8) == layer.rows * layer.cols // 2


def test_a_second_use_in_one_forward_pass_is_refused() -> None:
    layer = linear(bias=False)
    square = ResidentLinear(nn.Linear(9, 9), ResidentConfig(), seeded())
    with pytest.raises(UsageError, match="changed between its forward and its backward pass"):
        square(square(torch.ones(2, 9))).sum().backward()
    output = layer(torch.ones(2, 9)).sum()
    output.backward(retain_graph=True)
    with pytest.raises(UsageError, match="used once"):
        output.backward()


def test_a_forward_pass_without_a_backward_pass_does_no_harm() -> None:
    layer = linear()
    layer(torch.ones(2, 9))
    layer(torch.ones(2, 9)).sum().backward()
    assert layer.version == 1


def test_16_bit_inputs_have_16_bit_outputs() -> None:
    layer = linear()
    x = torch.ones(2, 9, dtype=torch.bfloat16, requires_grad=True)
    output = layer(x)
    output.sum().backward()
    assert output.dtype == torch.bfloat16 and x.grad is not None and x.grad.dtype == torch.bfloat16
    assert layer.bias is not None and layer.bias.grad is not None and layer.bias.grad.dtype == torch.float32


def test_autocast_chooses_the_type_of_the_output_alone() -> None:
    for layer, x in ((linear(), torch.randn(2, 9)), (conv(padding=1), torch.randn(2, 4, 5, 5))):
        x.requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            output = layer(x)
        output.float().sum().backward()
        assert output.dtype == torch.bfloat16 and x.grad is not None and x.grad.dtype == torch.float32


def test_channels_last_gives_the_same_gradients() -> None:
    x = torch.randn(2, 4, 6, 5, generator=seeded(1))
    first, made = conv(padding=1), []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        layer, here = copy.deepcopy(first), x.clone(memory_format=memory_format).requires_grad_()
        layer(here).square().sum().backward()
        made.append((here.grad, layer.log_gain.grad, layer.moments.first_peaks))
    for plain, channels_last in zip(*made, strict=True):
        # Sums of large terms: how they round depends on the machine's kernels, in units of the largest.
        assert (plain - channels_last).abs().max() <= 1e-5 * plain.abs().max()


def test_the_state_dict_has_codes_scales_and_bias_alone() -> None:
    layer = linear(residual=True)
    assert set(layer.state_dict()) == {"codes", "first_scale", "log_gain", "bias"}
    assert {"residual", "moments.first", "moments.steps"} <= set(dict(layer.named_buffers()))


def steps(layer: ResidentLayer, optimizer: torch.optim.Optimizer, seeds: range) -> None:
    for seed in seeds:
        optimizer.zero_grad()
        layer(torch.randn(4, 9, generator=seeded(seed))).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("moments", ["factored", "8bit", "float"])
@pytest.mark.parametrize("residual", [True, False])
def test_training_goes_on_from_a_copy_bit_for_bit(residual: bool, moments: str) -> None:
    made = []
    for _ in range(2):
        layer = linear(residual=residual, moments=moments)
        set_generator(layer, seeded(8))
        made.append((layer, torch.optim.AdamW(layer.parameters(), lr=0.01)))
    (first, first_optimizer), (second, second_optimizer) = made
    steps(first, first_optimizer, range(5))
    second.load_state_dict(first.state_dict())
    for name, buffer in second.named_buffers():
        buffer.copy_(dict(first.named_buffers())[name])
    second_optimizer.load_state_dict(copy.deepcopy(first_optimizer.state_dict()))
    second.own_generator().set_state(first.own_generator().get_state())
    steps(first, first_optimizer, range(5, 10))
    steps(second, second_optimizer, range(5, 10))
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_equal_seeds_give_equal_codes_and_the_global_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    layers = [linear(), linear()]
    for layer in layers:
        layer.lr = 0.1
    torch.set_rng_state(before)
    for layer in layers:
        layer(torch.ones(2, 9)).sum().backward()
    assert torch.equal(layers[0].codes, layers[1].codes)
    assert torch.equal(torch.get_rng_state(), before)
