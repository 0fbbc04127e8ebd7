"""``hetero_diffq/sliced``: steps, ranges and derived widths of weights."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import qcore
from qcore.errors import ConfigError, QuantizationError
from qcore.quantizers import make_quantizer
from qcore_hetero_diffq.quantizers.levels import LEVELS, largest_codes
from qcore_hetero_diffq.quantizers.sliced import Sliced

KINDS = ("granularity='row'", "granularity='tensor'", "granularity='group', group_size=5")
WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8)


def weight(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*(shape or (8, 12)), generator=torch.Generator().manual_seed(seed)) * 0.1


def made(x: Tensor, options: str = "") -> Sliced:
    quantizer = make_quantizer(f"hetero_diffq/sliced({options})")
    assert isinstance(quantizer, Sliced)
    quantizer.initialize(x)
    return quantizer


def spread(x: Tensor, options: str = "") -> Sliced:
    """Return a quantizer whose slices have many widths, all derived."""
    quantizer = made(x, options)
    steps, ranges = quantizer.steps().detach(), quantizer.ranges().detach()
    ratio = torch.logspace(0.1, 2.1, steps.numel()).reshape(steps.shape)
    quantizer.set_grid(ranges / ratio, ranges)
    return quantizer


def standing(x: Tensor, options: str = "") -> Sliced:
    """Return a quantizer whose rows have all levels in turn."""
    quantizer = made(x, options)
    levels = torch.tensor(WIDTHS).repeat(len(x))[: len(quantizer.level)]
    top = largest_codes(levels).unsqueeze(1)
    steps = quantizer.ranges().detach() / top
    quantizer.set_grid(steps, steps * top, levels)
    return quantizer


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("learn", ["log", "linear"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_the_first_width_is_exactly_that_of_the_config(bits: int, learn: str, options: str) -> None:
    for exponent in (-20, 0, 9):
        quantizer = made(
            weight() * 10.0**exponent, f"bits={bits}, learn={learn!r}, {options}, range_limits=[1e-30, 1e30]"
        )
        assert set(quantizer.row_bits().tolist()) == {bits}
        assert set(quantizer.grid().high.unique().tolist()) == {2.0 ** (bits - 1) - 1}


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("maker", [spread, standing])
def test_codes_fit_their_rows_widths(maker: object, options: str) -> None:
    x = weight(16, 33) * 3
    quantizer = maker(x, options)
    coded = quantizer.encode(x)
    assert torch.equal(coded.codes, coded.codes.round())
    widths = quantizer.row_bits().expand(16)
    top = torch.where(widths == 1, 1, 2 ** (widths - 1) - 1)
    assert bool((coded.codes.abs() <= top.unsqueeze(1)).all())
    assert bool((coded.codes[widths == 1] != 0).all())


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("maker", [made, spread, standing])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_integers_equal_the_fake_quantized_bit_for_bit(maker: object, options: str, dtype: torch.dtype) -> None:
    x = (weight(9, 33) * 3).to(dtype)
    quantizer = maker(x.float(), options).eval()
    values = quantizer(x)
    assert values.dtype == dtype
    assert torch.equal(quantizer.quantize(x).dequantize(), values)
    with torch.no_grad():
        assert torch.equal(quantizer(x), values)


def test_no_width_is_a_parameter() -> None:
    quantizer = made(weight())
    assert sorted(name for name, _ in quantizer.named_parameters()) == ["range", "step"]
    before = quantizer.bits().detach().clone()
    with torch.no_grad():
        quantizer.step += 1.01  # log2: a little over twice the step
    assert torch.equal(quantizer.bits(), before - 1)


def test_ranges_begin_three_deviations_from_the_mean() -> None:
    x = weight(4, 50) + torch.tensor([[0.3], [-0.3], [0.0], [0.0]])
    x[3] = 0
    mean, sigma = x.double().mean(dim=1), x.double().std(dim=1, correction=0)
    expected = torch.maximum((mean - 3 * sigma).abs(), (mean + 3 * sigma).abs())
    expected[3] = 1
    torch.testing.assert_close(made(x).ranges().squeeze(1).double(), expected, rtol=1e-5, atol=0)


def test_a_short_last_group_counts_its_own_elements() -> None:
    x = weight(3, 13)
    ranges = made(x, "granularity='group', group_size=5").ranges()
    alone = made(x[:, 10:].contiguous(), "granularity='row'").ranges()
    torch.testing.assert_close(ranges[:, 2:], alone, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(8, 3, 3, 3), (6, 1, 3, 3), (5, 7), (4, 1), (1, 1)])
def test_a_slice_is_an_output_channel(shape: tuple[int, ...]) -> None:
    x = weight(*shape)
    quantizer = spread(x)
    assert quantizer.step.shape == quantizer.range.shape == (shape[0], 1)
    y = quantizer(x).detach()
    for row in range(shape[0]):
        grid, codes = quantizer.grid(), y[row] / quantizer.steps()[row].detach()
        assert float((codes - codes.round()).abs().max()) < 1e-3
        assert float(codes.abs().max()) <= float(grid.high[row]) + 1e-3


def test_mean_width_times_elements_is_the_sum_over_rows() -> None:
    x = weight(16, 12)
    quantizer = spread(x)
    widths = quantizer.row_bits()
    assert len(set(widths.tolist())) > 3
    assert float(quantizer.bits().detach().mean()) * x.numel() == pytest.approx(sum(12 * w for w in widths.tolist()))
    stored = quantizer.quantize(x)
    assert sum(block.data.numel() for block in stored.blocks) == sum(
        math.ceil(12 / 5) if w == 2 else math.ceil(12 * w / 8) for w in widths.tolist()
    )


def test_a_row_of_groups_has_the_width_of_its_widest() -> None:
    x = weight(3, 10)
    quantizer = made(x, "granularity='group', group_size=5")
    ranges = quantizer.ranges().detach()
    quantizer.set_grid(ranges / torch.tensor([[1.0, 7.0], [3.0, 3.0], [100.0, 2.0]]), ranges)
    assert quantizer.row_bits().tolist() == [4, 3, 8]
    quantizer.bits().sum().backward()
    assert bool((quantizer.step.grad != 0).tolist() == [[False, True], [True, True], [True, False]])


@pytest.mark.parametrize("learn", ["log", "linear"])
def test_gradients_of_step_and_range_reach_the_parameters(learn: str) -> None:
    """In ``log`` mode by the chain rule: ``dL/dlog2 d = dL/dd d ln 2``."""
    x, upstream = weight(6, 200) * 1.5, torch.randn(6, 200, generator=torch.Generator().manual_seed(1))
    quantizer = made(x / 2, f"surrogate='ste', learn={learn!r}, bits=3")
    leaf = x.clone().requires_grad_()
    quantizer(leaf).backward(upstream)
    d, r = quantizer.steps().detach().double(), quantizer.ranges().detach().double()
    inside = x.double().abs() <= r
    assert bool((~inside).any(dim=1).all())
    assert torch.equal(leaf.grad, upstream * inside)
    z = torch.minimum(torch.maximum(x.double(), -r), r) / d
    dstep = (upstream.double() * (quantizer.encode(x).codes.double() - z)).sum(dim=1, keepdim=True)
    drange = (upstream.double() * x.sign() * ~inside).sum(dim=1, keepdim=True)
    chain = (d * math.log(2), r * math.log(2)) if learn == "log" else (1.0, 1.0)
    torch.testing.assert_close(quantizer.step.grad.double(), dstep * chain[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(quantizer.range.grad.double(), drange * chain[1], rtol=1e-4, atol=1e-4)


def test_a_width_that_stands_still_learns_its_step_alone() -> None:
    x = weight(8, 40) * 4
    quantizer = standing(x / 4)
    quantizer(x).backward(torch.ones_like(x))
    assert not quantizer.range.grad.any()
    assert bool((quantizer.step.grad != 0).all())
    before = quantizer.row_bits()
    with torch.no_grad():
        quantizer.step += 0.7
        quantizer.range -= 5.0
    assert torch.equal(quantizer.row_bits(), before)
    assert before.tolist() == list(WIDTHS)
    assert torch.equal(quantizer.quantize(x).dequantize(), quantizer.eval()(x))


@pytest.mark.parametrize("learn", ["log", "linear"])
def test_projection_keeps_boxes_order_and_at_most_eight_bits(learn: str) -> None:
    options = f"learn={learn!r}, step_limits=[0.001, 1.0], range_limits=[0.01, 50.0]"
    quantizer = made(weight(6, 10), options)
    ranges = torch.tensor([[1.0], [1e-4], [1e4], [0.3], [40.0], [0.02]])
    steps = torch.tensor([[2.0], [1e-9], [1e9], [0.2999999], [1e-5], [0.02]])
    quantizer.set_grid(steps, ranges)
    quantizer.project()
    d, r = quantizer.steps().detach(), quantizer.ranges().detach()
    assert bool((d < r).all()) and bool((d >= 0.001).all()) and bool((d <= 1).all())
    assert bool((r >= 0.01).all()) and bool((r <= 50).all())
    assert bool((quantizer.grid().high >= 1).all()) and bool((quantizer.grid().high <= 127).all())
    assert int(quantizer.row_bits().max()) <= 8 and int(quantizer.row_bits().min()) >= 2


def test_projection_changes_nothing_that_is_in_its_box() -> None:
    quantizer = spread(weight(8, 12), "learn='linear'")
    before = [quantizer.step.detach().clone(), quantizer.range.detach().clone()]
    quantizer.project()
    assert torch.equal(quantizer.step, before[0]) and torch.equal(quantizer.range, before[1])


def test_gradients_are_clipped_to_the_step() -> None:
    quantizer = made(weight(2, 3), "learn='linear'")
    quantizer.set_grid(torch.tensor([[0.5], [0.01]]), torch.tensor([[1.0], [1.0]]))
    quantizer.step.grad, quantizer.range.grad = torch.tensor([[3.0], [0.005]]), torch.tensor([[-0.1], [-7.0]])
    quantizer.clip_gradients()
    torch.testing.assert_close(quantizer.step.grad, torch.tensor([[0.5], [0.005]]))
    torch.testing.assert_close(quantizer.range.grad, torch.tensor([[-0.1], [-0.01]]))


def test_gradients_of_logarithms_are_not_clipped_to_the_step() -> None:
    quantizer = made(weight(2, 3))
    quantizer.step.grad = torch.tensor([[3.0], [0.005]])
    quantizer.clip_gradients()
    assert torch.equal(quantizer.step.grad, torch.tensor([[3.0], [0.005]]))


@pytest.mark.parametrize("options", KINDS)
def test_what_watches_keeps_a_running_mean_of_squared_gradients(options: str) -> None:
    x = weight(4, 13)
    quantizer = made(x, options)
    upstream = torch.arange(1.0, 5.0).unsqueeze(1).expand(4, 13)
    quantizer(x).backward(upstream)
    assert not quantizer.seen and not quantizer.sensitivity.any()
    quantizer.watching = True
    for _ in range(3):
        quantizer(x).backward(upstream)
    assert float(quantizer.seen) == pytest.approx(1 - 0.99**3, rel=1e-4)
    found = quantizer.sensitivity / quantizer.seen
    expected = torch.arange(1.0, 5.0).square()
    torch.testing.assert_close(found, expected if "tensor" not in options else expected.mean().reshape(1))


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("shape", [(0, 4), (3, 1), (1, 1), (1, 300), (2, 3, 1, 1)])
def test_any_shape_works_while_watched(shape: tuple[int, ...], options: str) -> None:
    x = weight(*shape)
    quantizer = made(x, options)
    quantizer.watching = True
    leaf = x.clone().requires_grad_()
    y = quantizer(leaf)
    y.sum().backward()
    assert y.shape == x.shape and leaf.grad.shape == x.shape
    assert bool(torch.isfinite(quantizer.sensitivity).all()) and bool(torch.isfinite(quantizer.seen))
    quantizer.project()
    assert torch.equal(quantizer.quantize(x).dequantize(), quantizer.eval()(x))


@pytest.mark.parametrize("size", [1e-25, 1e-12, 1e12, 1e17])
def test_huge_and_tiny_values_keep_their_codes(size: float) -> None:
    x = weight(6, 20)
    expected = spread(x).encode(x).codes
    assert torch.equal(
        spread(x * size, "range_limits=[1e-37, 1e30], step_limits=[1e-37, 1e30]").encode(x * size).codes, expected
    )


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_by_name(bad: float) -> None:
    x = weight()
    quantizer = made(x)
    quantizer.tensor_name = "features.3.weight"
    x[2, 3] = bad
    for use in (quantizer, quantizer.quantize, quantizer.initialize):
        with pytest.raises(QuantizationError, match=r"features\.3\.weight"):
            use(x)


def test_zeros_stay_zeros() -> None:
    x = torch.zeros(2, 5)
    quantizer = made(x)
    assert not quantizer(x).any()
    assert bool(torch.isfinite(quantizer.steps()).all()) and bool((quantizer.steps() > 0).all())


@pytest.mark.parametrize("options", [*KINDS, "surrogate='gaussian'"])
def test_a_deep_copy_goes_its_own_way(options: str) -> None:
    x = weight()
    quantizer = spread(x, options)
    quantizer(x).sum().backward()
    twin = copy.deepcopy(quantizer)
    assert torch.equal(twin.eval()(x), quantizer.eval()(x))
    twin.set_grid(twin.ranges().detach(), twin.ranges().detach(), torch.ones_like(twin.level))
    assert set(twin.row_bits().tolist()) == {1} and 1 not in quantizer.row_bits().tolist()
    assert bool((twin.encode(x).codes != 0).all())


def test_a_copy_sees_its_own_levels_whatever_was_looked_at_before() -> None:
    """What was looked at is kept by the tensor and its version, and a copy's tensors have new ones."""
    x = weight()
    for first, then in ((0, 1), (1, 0), (1, 3)):
        quantizer = made(x)
        quantizer.level = torch.full((8,), first)
        assert quantizer.look("level") == [first] * 8
        quantizer.level.fill_(then)
        twin = copy.deepcopy(quantizer)
        assert twin.look("level") == [then] * 8


def test_levels_set_often_are_seen_at_once() -> None:
    x = weight(3, 4)
    quantizer = made(x)
    steps, ranges = quantizer.steps().detach(), quantizer.ranges().detach()
    for turn in range(200):
        level = turn % 9
        for _ in range(turn % 4):  # tensors come and go, and their memory is used again
            quantizer.set_grid(steps, ranges, torch.full((3,), (level + 1) % 9))
        quantizer.set_grid(steps, ranges, torch.full((3,), level))
        assert quantizer.look("level") == [level] * 3


@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("maker", [spread, standing])
def test_a_fresh_quantizer_takes_up_a_state(maker: object, options: str) -> None:
    x = weight()
    quantizer = maker(x, options)
    fresh = make_quantizer(f"hetero_diffq/sliced({options})")
    fresh.load_state_dict(quantizer.state_dict())
    assert torch.equal(fresh.eval()(x), quantizer.eval()(x))
    assert torch.equal(fresh.bits(), quantizer.bits())
    assert isinstance(fresh.step, nn.Parameter) and fresh.step.requires_grad
    fresh.train().watching = True
    fresh(x).sum().backward()
    assert bool((fresh.sensitivity > 0).all()) and len(fresh.sensitivity)


@pytest.mark.parametrize("options", KINDS)
def test_layers_packed_while_widths_are_derived_equal_eval(options: str) -> None:
    model = nn.Sequential(nn.Linear(20, 9), nn.ReLU(), nn.Linear(9, 5))
    rule = {"weight": f"hetero_diffq/sliced({options})", "input": "hetero_diffq/activation"}
    quantized = qcore.quantize(model, {"type:Linear": rule}).train()
    x = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    quantized(x)
    for layer in (quantized[0], quantized[2]):
        grids = layer.weight_quantizer
        ranges = grids.ranges().detach()
        ratio = torch.logspace(0.2, 2, ranges.numel()).reshape(ranges.shape)
        grids.set_grid(ranges / ratio, ranges)
    expected = quantized.eval()(x)
    packed = qcore.pack(quantized, backend="reference")(x)
    if "group" in options:
        torch.testing.assert_close(packed, expected, rtol=1e-5, atol=1e-6)
    else:
        assert torch.equal(packed, expected)


def test_levels_are_binary_ternary_and_symmetric() -> None:
    assert largest_codes(torch.tensor(LEVELS)).tolist() == [1, 1, 3, 7, 15, 31, 63, 127]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("bits=1", "bits"),
        ("bits=9", "bits"),
        ("surrogate='egws'", "surrogate"),
        ("delta=-1", "delta"),
        ("step_limits=[1, 1]", "step_limits rise"),
        ("range_limits=[0, 1]", "range_limits rise"),
        ("granularity='group'", "group_size go together"),
        ("group_size=4", "group_size go together"),
        ("granularity='token'", "granularity"),
        ("bist=4", "bist"),
    ],
)
def test_bad_options_are_refused(options: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_quantizer(f"hetero_diffq/sliced({options})")
