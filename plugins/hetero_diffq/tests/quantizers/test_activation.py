"""``hetero_diffq/activation``: a learned step and range for a layer's input."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import qcore
from qcore.errors import CalibrationError, ConfigError, QuantizationError
from qcore.nn import QuantLinear
from qcore.quantizers import make_quantizer
from qcore_hetero_diffq.quantizers.activation import Activation
from qcore_hetero_diffq.quantizers.packed import PackedActivation


def inputs(rows: int = 40, cols: int = 10, *, signed: bool = False, seed: int = 0) -> Tensor:
    x = torch.randn(rows, cols, generator=torch.Generator().manual_seed(seed))
    return x if signed else x.relu()


def fresh(options: str = "") -> Activation:
    quantizer = make_quantizer(f"hetero_diffq/activation({options})")
    assert isinstance(quantizer, Activation)
    return quantizer


def made(x: Tensor, options: str = "") -> Activation:
    quantizer = fresh(options)
    quantizer.initialize(x)
    return quantizer


def standing(x: Tensor, level: int, options: str = "") -> Activation:
    quantizer = made(x, options)
    quantizer.set_level(level, quantizer.ranges().detach() * 0.8)
    return quantizer


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("learn", ["log", "linear"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_the_first_width_is_exactly_that_of_the_config(bits: int, learn: str, signed: bool) -> None:
    for exponent in (-15, 0, 12):
        quantizer = made(inputs(signed=signed) * 10.0**exponent, f"bits={bits}, learn={learn!r}")
        assert float(quantizer.bits().detach()) == bits
        assert float(quantizer.grid().high) == 2 ** (bits - signed) - 1


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("stands", [False, True])
def test_codes_fit_the_width_and_equal_the_fake_quantized(bits: int, signed: bool, stands: bool) -> None:
    x = inputs(signed=signed)
    quantizer = standing(x / 2, bits) if stands else made(x / 2, f"bits={bits}")
    coded = quantizer.encode(x)
    top = 2 ** (bits - signed) - 1
    assert (float(coded.codes.min()), float(coded.codes.max())) == (-top if signed else 0, top)
    assert coded.bits == bits
    for dtype in (torch.float32, torch.bfloat16):
        values = quantizer.eval()(x.to(dtype))
        assert values.dtype == dtype
        assert torch.equal(quantizer.quantize(x.to(dtype)).dequantize(), values)
        with torch.no_grad():
            assert torch.equal(quantizer(x.to(dtype)), values)


def test_the_range_begins_at_the_mean_of_the_batches_percentiles() -> None:
    quantizer = fresh("percentile=90, batches=2, learn='linear'").train()
    first, second, third = (torch.arange(1.0, 101.0).reshape(10, 10) * k for k in (1, 3, 100))
    quantizer(first)
    assert float(quantizer.ranges().detach()) == 90
    quantizer(second)
    assert float(quantizer.ranges().detach()) == pytest.approx((90 + 270) / 2)
    quantizer(third)
    assert float(quantizer.ranges().detach()) == pytest.approx(180)
    assert int(quantizer.batches) == 2


def test_a_calibration_stands_for_all_batches() -> None:
    quantizer = made(inputs(), "batches=3").train()
    before = quantizer.range.detach().clone()
    quantizer(inputs() * 100)
    assert torch.equal(quantizer.range, before)


def test_nothing_is_taken_from_what_is_evaluated() -> None:
    quantizer = fresh().train()
    quantizer(inputs())
    before = {name: value.clone() for name, value in quantizer.state_dict().items()}
    quantizer.eval()(inputs(signed=True) * 50)
    assert all(torch.equal(value, before[name]) for name, value in quantizer.state_dict().items())


def test_a_later_batch_may_tell_that_values_are_signed() -> None:
    quantizer = fresh("bits=4, batches=2").train()
    quantizer(inputs())
    assert not quantizer.is_signed and float(quantizer.grid().high) == 15
    y = quantizer(inputs(signed=True))
    assert bool(quantizer.is_signed) and float(quantizer.grid().high) == 7 and float(quantizer.bits().detach()) == 4
    assert bool((y < 0).any())


def test_once_the_range_is_known_negative_values_are_clipped() -> None:
    quantizer = made(inputs()).train()
    x = inputs(signed=True)
    y = quantizer(x)
    assert not quantizer.is_signed and bool((y >= 0).all())
    quantizer(x.requires_grad_()).sum().backward()
    assert not x.grad[x < 0].any()


@pytest.mark.parametrize(("signed", "expected"), [(True, True), (False, False)])
def test_the_sign_can_be_told(signed: bool, expected: bool) -> None:
    quantizer = made(inputs(signed=not signed), f"signed={signed}")
    assert bool(quantizer.is_signed) == expected
    assert float(quantizer.bits().detach()) == 4


def test_rounding_noise_below_zero_is_no_sign() -> None:
    x = inputs()
    x[0, 0] = -1e-7
    assert not made(x).is_signed


def test_batches_of_zeros_leave_a_range_that_the_next_ones_move() -> None:
    quantizer = fresh("batches=2, percentile=100, learn='linear'").train()
    assert not quantizer(torch.zeros(4, 3)).any()
    assert float(quantizer.ranges().detach()) == 1
    quantizer(torch.full((4, 3), 0.25))
    assert float(quantizer.ranges().detach()) == (1 + 0.25) / 2


def test_small_values_are_signed_too() -> None:
    assert made(inputs(signed=True) * 1e-14).is_signed


def test_mostly_zeros_have_the_range_of_the_others() -> None:
    x = torch.zeros(2000)
    x[7] = 3.0
    assert float(made(x.reshape(1, -1)).ranges().detach()) == pytest.approx(3, rel=1e-5)


def test_an_empty_batch_changes_nothing() -> None:
    quantizer = fresh().train()
    quantizer(inputs())
    quantizer.watching = True
    before = {name: value.clone() for name, value in quantizer.named_buffers()} | {"step": quantizer.step.clone()}
    empty = torch.zeros(0, 10, requires_grad=True)
    y = quantizer(empty)
    y.sum().backward()
    assert y.shape == empty.grad.shape == (0, 10)
    after = dict(quantizer.named_buffers()) | {"step": quantizer.step}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert quantizer.eval()(empty).shape == (0, 10)


def test_what_was_never_calibrated_says_so() -> None:
    quantizer = fresh()
    quantizer.tensor_name = "head.input"
    for use in (quantizer.eval(), quantizer.encode, quantizer.quantize):
        with pytest.raises(CalibrationError, match=r"head\.input"):
            use(inputs())
    quantizer.initialize(torch.zeros(0, 3))
    assert quantizer.needs_calibration


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused_by_name(bad: float) -> None:
    x = inputs()
    quantizer = made(x).train()
    quantizer.tensor_name = "head.input"
    x[3, 3] = bad
    for use in (quantizer, quantizer.encode, quantizer.initialize):
        with pytest.raises(QuantizationError, match=r"head\.input"):
            use(x)


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 2, 3), (4, 2, 3, 3), (6,)])
@pytest.mark.parametrize("size", [1e-14, 1.0, 1e14])
def test_any_shape_and_size_works(shape: tuple[int, ...], size: float) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * size
    quantizer = made(x).train()
    quantizer.watching = True
    y = quantizer(x.requires_grad_())
    y.sum().backward()
    assert y.shape == x.shape == x.grad.shape
    assert float((y - x).detach().abs().max()) <= 0.51 * float(quantizer.steps().detach())
    assert torch.equal(quantizer.quantize(x).dequantize(), y)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("learn", ["log", "linear"])
def test_gradients_of_step_and_range_reach_the_parameters(learn: str, signed: bool) -> None:
    x, upstream = inputs(signed=True), torch.randn(40, 10, generator=torch.Generator().manual_seed(2))
    quantizer = made(x / 2, f"surrogate='ste', learn={learn!r}, bits=3, signed={signed}")
    leaf = x.clone().requires_grad_()
    quantizer(leaf).backward(upstream)
    d, r = float(quantizer.steps().detach()), float(quantizer.ranges().detach())
    low = -r if signed else 0.0
    inside = (x >= low) & (x <= r)
    assert torch.equal(leaf.grad, upstream * inside)
    z, g = x.double().clamp(low, r) / d, upstream.double()
    dstep = float((g * (quantizer.encode(x).codes.double() - z)).sum())
    drange = float((g * (x > r)).sum() - (g * (x < -r)).sum() * signed)
    chain = (d * math.log(2), r * math.log(2)) if learn == "log" else (1.0, 1.0)
    assert float(quantizer.step.grad) == pytest.approx(dstep * chain[0], rel=1e-3, abs=1e-3)
    assert float(quantizer.range.grad) == pytest.approx(drange * chain[1], rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("stands", [False, True])
@pytest.mark.parametrize(("bits", "plain"), [(2, True), (3, False), (8, False)])
def test_at_two_bits_gradients_pass_straight_through(bits: int, plain: bool, stands: bool) -> None:
    x = inputs().requires_grad_()
    quantizer = standing(x.detach(), bits, "delta=0.5") if stands else made(x.detach(), f"bits={bits}, delta=0.5")
    quantizer(x).sum().backward()
    changed = (x.grad != 0) & (x.grad != 1)
    assert bool(changed.any()) != plain


def test_a_width_that_stands_still_learns_its_step_alone() -> None:
    x = inputs(signed=True)
    quantizer = standing(x, 5)
    quantizer(x).square().sum().backward()
    assert bool(quantizer.step.grad) and not quantizer.range.grad.any()
    assert not quantizer.bits().requires_grad or not torch.autograd.grad(quantizer.bits(), quantizer.step)[0].any()
    with torch.no_grad():
        quantizer.step += 0.4
    assert float(quantizer.bits().detach()) == 5
    assert torch.equal(quantizer.quantize(x).dequantize(), quantizer.eval()(x))


def test_derived_bits_have_gradients() -> None:
    quantizer = made(inputs(), "learn='linear', bits=5")
    quantizer.bits().backward()
    d, r = float(quantizer.steps().detach()), float(quantizer.ranges().detach())
    assert float(quantizer.range.grad) == pytest.approx(1 / (math.log(2) * d * 32), rel=1e-4)
    assert float(quantizer.step.grad) == pytest.approx(-r / d**2 / (math.log(2) * 32), rel=1e-4)


@pytest.mark.parametrize(("signed", "largest"), [(False, 255), (True, 127)])
def test_projection_keeps_at_most_eight_bits(signed: bool, largest: int) -> None:
    quantizer = made(inputs(signed=signed))
    one = torch.ones(1, 1)
    for ratio in (1e-3, 0.9, 1.0, 200.4, 1e6):
        quantizer.set_grid(one / ratio, one)
        quantizer.project()
        assert 1 <= float(quantizer.grid().high) <= largest
        assert 2 <= float(quantizer.bits().detach()) <= 8
        assert bool(quantizer.steps() < quantizer.ranges())


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("level", [None, 2, 5, 8])
def test_a_fresh_quantizer_takes_up_a_state(level: int | None, signed: bool) -> None:
    x = inputs(signed=signed)
    quantizer = made(x) if level is None else standing(x, level)
    again = fresh()
    again.load_state_dict(quantizer.state_dict())
    assert torch.equal(again.eval()(x), quantizer.eval()(x))
    assert torch.equal(again.bits(), quantizer.bits()) and not again.needs_calibration
    twin = copy.deepcopy(quantizer)
    twin.set_level(3, twin.ranges().detach())
    assert float(twin.bits().detach()) == 3 and float(quantizer.bits().detach()) == (level or 4)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("level", range(2, 9))
def test_what_packing_keeps_has_the_same_codes(level: int, signed: bool) -> None:
    x = inputs(signed=signed) * 3
    quantizer = standing(x / 3, level).eval()
    packed = quantizer.packed()
    assert isinstance(packed, PackedActivation) and not list(packed.parameters())
    mine, theirs = quantizer.encode(x), packed.encode(x)
    assert torch.equal(mine.codes, theirs.codes) and torch.equal(mine.scale, theirs.scale)
    assert torch.equal(packed(x), quantizer(x))
    assert float(packed.bits()) == level


def test_a_derived_width_is_packed_as_it_is() -> None:
    quantizer = made(inputs())
    assert quantizer.packed() is quantizer and quantizer.scheme() is None


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("level", [None, 2, 3, 6, 8])
def test_a_packed_layer_equals_eval(level: int | None, signed: bool) -> None:
    rules = {"type:Linear": {"weight": "hetero_diffq/sliced", "input": "hetero_diffq/activation"}}
    model = qcore.quantize(nn.Sequential(nn.Linear(10, 6)), rules).train()
    x = inputs(signed=signed)
    model(x)
    layer = model[0]
    assert isinstance(layer, QuantLinear) and isinstance(layer.input_quantizer, Activation)
    if level is not None:
        layer.input_quantizer.set_level(level, layer.input_quantizer.ranges().detach())
    expected = model.eval()(x)
    assert torch.equal(qcore.pack(model, backend="reference")(x), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("bits=1", "bits"),
        ("percentile=0", "percentile"),
        ("batches=0", "batches"),
        ("surrogate='none'", "surrogate"),
        ("granularity='row'", "granularity"),
    ],
)
def test_bad_options_are_refused(options: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fresh(options)


def test_ranks_agree_on_a_range_only_where_they_train_together(monkeypatch: pytest.MonkeyPatch) -> None:
    reduced: list[Tensor] = []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    monkeypatch.setattr(torch.distributed, "all_reduce", reduced.append)
    made(inputs())
    assert not reduced
    fresh()(inputs())
    assert len(reduced) == 1
