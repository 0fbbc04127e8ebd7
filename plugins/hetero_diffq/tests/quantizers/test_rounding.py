"""Rounding to a learned grid: values and gradients against float64, claims 1 to 3 of the paper's contract."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qcore_hetero_diffq.quantizers import rounding
from qcore_hetero_diffq.quantizers.rounding import Grid, derived_bits, rounded
from qcore_hetero_diffq.quantizers.surrogate import scaled_gradient

STEPS = torch.tensor([0.125, 0.5, 0.25, 1.0]).reshape(4, 1, 1)
"""Powers of two, so that ``x / d`` is exact in float32 and float64 see the same ties."""
RANGES = torch.tensor([0.8, 1.7, 0.75, 7.2]).reshape(4, 1, 1)
DELTA = 0.25
NUDGE = 1e-6


class Watcher:
    """Keeps what it is shown."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def generator_on(self, device: torch.device) -> torch.Generator:
        return torch.Generator(device).manual_seed(0)

    def watch(self, gradient: Tensor, x: Tensor) -> None:
        self.seen.append((gradient, x))


def grid_of(step: Tensor, range: Tensor, *, signed: bool = True, fixed: bool = False, binary: bool = False) -> Grid:
    high = torch.ones_like(step) if binary else (range / step).round()
    low = -high if signed else torch.zeros_like(high)
    everywhere = torch.full(step.shape, fixed)
    return Grid(
        step, step.reciprocal(), range, high, low, everywhere, torch.full_like(everywhere, True) if binary else None
    )


def numbers(count: int = 200) -> tuple[Tensor, Tensor]:
    """Return values (4, 1, count), inside and beyond the ranges, and gradients."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(4, 1, count, generator=generator) * RANGES, torch.randn(4, 1, count, generator=generator)


def gradients(
    x: Tensor, upstream: Tensor, step: Tensor, range: Tensor, grid: Grid, surrogate: str = "ste", delta: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in (x, step, range)]
    rounded(*leaves, grid, surrogate, delta, Watcher()).backward(upstream)
    return tuple(leaf.grad for leaf in leaves)


def by_formula(
    x: Tensor, upstream: Tensor, *, signed: bool, surrogate: str, delta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of section 1.4, in float64."""
    x, g, d, r = (tensor.double() for tensor in (x, upstream, STEPS, RANGES))
    clipped = torch.minimum(torch.maximum(x, -r if signed else torch.zeros_like(r)), r)
    z = clipped / d
    error = z - z.round()
    sign = torch.where(g >= 0, 1.0, -1.0).double()
    m = scaled_gradient(surrogate, delta, sign, error) / sign
    inside = (x.abs() <= r) if signed else (x >= 0) & (x <= r)
    dx = g * m * inside
    dstep = (g * (z.round() - m * z)).sum(dim=-1, keepdim=True)
    beyond = (x > r).double() - ((x < -r).double() if signed else 0.0)
    return dx, dstep, (g * m * beyond).sum(dim=-1, keepdim=True)


@pytest.mark.parametrize("signed", [True, False])
def test_values_are_multiples_of_the_step_up_to_the_largest_code(signed: bool) -> None:
    x, _ = numbers()
    grid = grid_of(STEPS, RANGES, signed=signed)
    codes = (x.double() / STEPS).round()
    top = (RANGES.double() / STEPS.double()).round()
    expected = torch.minimum(torch.maximum(codes, -top if signed else torch.zeros_like(top)), top) * STEPS
    assert torch.equal(rounded(x, STEPS, RANGES, grid, "ste", 0.0, Watcher()), expected.float())


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("surrogate", ["ste", "ewgs", "tanh", "atanh", "psgd", "acos"])
def test_gradients_are_those_of_the_formulas(surrogate: str, signed: bool) -> None:
    x, upstream = numbers()
    assert bool((x.abs() > RANGES).any(dim=-1).all()) and bool((x < 0).any())
    found = gradients(x, upstream, STEPS, RANGES, grid_of(STEPS, RANGES, signed=signed), surrogate, DELTA)
    expected = by_formula(x, upstream, signed=signed, surrogate=surrogate, delta=DELTA)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("fixed", [True, False])
def test_parts_of_a_slice_are_worked_on_like_the_whole(
    monkeypatch: pytest.MonkeyPatch, signed: bool, fixed: bool
) -> None:
    (x, upstream), grid = numbers(), grid_of(STEPS, RANGES, signed=signed, fixed=fixed)
    y = rounded(x, STEPS, RANGES, grid, "ewgs", DELTA, Watcher())
    whole = gradients(x, upstream, STEPS, RANGES, grid, "ewgs", DELTA)
    monkeypatch.setattr(rounding, "_AT_ONCE", 7)
    assert torch.equal(rounded(x, STEPS, RANGES, grid, "ewgs", DELTA, Watcher()), y)
    parts = gradients(x, upstream, STEPS, RANGES, grid, "ewgs", DELTA)
    assert torch.equal(parts[0], whole[0])
    for found, wanted in zip(parts[1:], whole[1:], strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("surrogate", ["ewgs", "tanh", "ewgs", "psgd", "acos", "gaussian", "uniform"])
def test_without_delta_gradients_are_straight_through(surrogate: str, signed: bool) -> None:
    x, upstream = numbers()
    grid = grid_of(STEPS, RANGES, signed=signed)
    plain = gradients(x, upstream, STEPS, RANGES, grid, "ste")
    for mine, theirs in zip(gradients(x, upstream, STEPS, RANGES, grid, surrogate, 0.0), plain, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("fixed", [False, True])
def test_gradients_are_finite_differences_of_the_rounding_with_its_error_kept(signed: bool, fixed: bool) -> None:
    """Straight-through: the rounding error counts as a constant; saturation and the product with ``d`` do not."""
    x, upstream = numbers(60)
    grid = grid_of(STEPS, RANGES, signed=signed, fixed=fixed)
    top = (RANGES / STEPS).round().double()

    def relaxed(x: Tensor, d: Tensor, r: Tensor, kept: Tensor | None = None) -> tuple[Tensor, Tensor]:
        bound = top if fixed else r / d
        z = torch.minimum(torch.maximum(x / d, -bound if signed else torch.zeros_like(bound)), bound)
        kept = grid.codes(x.float()).double() - z if kept is None else kept
        return ((z + kept) * d * upstream.double()).sum(dim=-1, keepdim=True), kept

    point = (x.double(), STEPS.double(), RANGES.double())
    _, kept = relaxed(*point)
    found = gradients(x, upstream, STEPS, RANGES, grid)
    for place in (1, 2):
        moved = [[p + sign * NUDGE * (i == place) for i, p in enumerate(point)] for sign in (1, -1)]
        up, down = (relaxed(*p, kept)[0] for p in moved)
        torch.testing.assert_close(found[place].double(), (up - down) / (2 * NUDGE), rtol=1e-4, atol=1e-4)


@given(
    st.floats(-10, 10, width=32),
    st.sampled_from([2.0**-5, 0.25, 0.3, 1.0]),
    st.floats(0.5, 8, width=32),
    st.booleans(),
)
def test_an_element_moves_step_or_range_and_by_little(x: float, step: float, range: float, signed: bool) -> None:
    d, r = torch.full((1, 1, 1), step), torch.full((1, 1, 1), max(range, step))
    value = torch.full((1, 1, 1), x)
    _, dstep, drange = (float(g) for g in gradients(value, torch.ones(1, 1, 1), d, r, grid_of(d, r, signed=signed)))
    assert abs(dstep) <= 0.5 + 1e-4
    assert drange in (0.0, 1.0, -1.0)
    if drange:  # saturated: all that the step still moves is how the range is rounded
        assert abs(dstep) == pytest.approx(abs(round(float(r / d)) - float(r / d)), abs=1e-4)


def test_never_both_where_the_range_is_a_whole_number_of_steps() -> None:
    x, _ = numbers(500)
    values = x.reshape(-1, 1, 1)
    step = STEPS.expand(4, 1, 500).reshape(-1, 1, 1)
    range = step * 3
    _, dstep, drange = gradients(values, torch.ones_like(values), step, range, grid_of(step, range))
    assert bool(drange.any()) and bool(dstep.any())
    assert not bool(((drange != 0) & (dstep != 0)).any())
    assert set(drange.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert float(dstep.abs().max()) <= 0.5


def test_negative_values_of_an_unsigned_slice_move_nothing() -> None:
    x = torch.tensor([[[-0.2, -5.0, -1e-7]]])
    step, range = torch.full((1, 1, 1), 0.25), torch.full((1, 1, 1), 1.0)
    for found in gradients(x, torch.ones_like(x), step, range, grid_of(step, range, signed=False), "ewgs", DELTA):
        assert not found.any()


def test_a_binary_slice_passes_gradients_straight_and_learns_its_step() -> None:
    x, upstream = numbers(50)
    x[0, 0, 0], x[0, 0, 1] = 0.0, -0.0
    grid = grid_of(STEPS, STEPS, fixed=True, binary=True)
    y = rounded(x, STEPS, STEPS, grid, "ewgs", DELTA, Watcher())
    signs = torch.where(x >= 0, 1.0, -1.0)
    assert torch.equal(y, signs * STEPS)
    dx, dstep, drange = gradients(x, upstream, STEPS, STEPS, grid, "ewgs", DELTA)
    assert torch.equal(dx, upstream)
    torch.testing.assert_close(dstep, (upstream * signs).sum(dim=-1, keepdim=True))
    assert not drange.any()


def test_binary_and_wider_slices_stand_beside_each_other() -> None:
    x, upstream = numbers(50)
    wide = grid_of(STEPS, RANGES, fixed=True)
    some = torch.tensor([True, False, True, False]).reshape(4, 1, 1)
    high = torch.where(some, 1.0, wide.high)
    mixed = Grid(STEPS, STEPS.reciprocal(), RANGES, high, -high, wide.fixed, some)
    grids = (mixed, grid_of(STEPS, RANGES, fixed=True, binary=True), wide)
    found = [gradients(x, upstream, STEPS, RANGES, grid, "ewgs", DELTA) for grid in grids]
    for whole, one, other in zip(*found, strict=True):
        assert torch.equal(whole, torch.where(some, one, other))


def test_what_watches_sees_the_gradient_that_arrives() -> None:
    x, upstream = numbers(10)
    watcher, leaf = Watcher(), x.clone().requires_grad_()
    rounded(leaf, STEPS, RANGES, grid_of(STEPS, RANGES), "ewgs", DELTA, watcher).backward(upstream)
    ((gradient, seen),) = watcher.seen
    assert torch.equal(gradient, upstream) and torch.equal(seen, x)


@pytest.mark.parametrize(("signed", "largest"), [(True, 127), (False, 255)])
@pytest.mark.parametrize("off", [-0.49, 0.0, 0.49])
def test_bits_are_those_that_the_codes_need(signed: bool, largest: int, off: float) -> None:
    codes = torch.arange(1, largest + 1)
    step = torch.full_like(codes, 0.037, dtype=torch.float32)
    range = (codes + off).clamp(min=0.51) * step
    bits = derived_bits(step, range, signed=signed, least=1 + signed).long()
    for code, width in zip(codes.tolist(), bits.tolist(), strict=True):
        top = 2 ** (width - 1) - 1 if signed else 2**width - 1
        half = 2 ** (width - 2) - 1 if signed else 2 ** (width - 1) - 1
        assert half < code <= top, (code, width)
    assert int(bits.max()) == 8


@pytest.mark.parametrize("signed", [True, False])
def test_gradients_of_bits_are_those_of_the_paper(signed: bool) -> None:
    ratio = torch.linspace(2.6, 120, 40)
    step = torch.linspace(0.01, 3, 40).requires_grad_()
    range = (ratio * step.detach()).requires_grad_()
    derived_bits(step, range, signed=signed, least=2).sum().backward()
    d, r = step.detach().double(), range.detach().double()
    levels = (r / d).round() + 1
    torch.testing.assert_close(range.grad.double(), 1 / (math.log(2) * d * levels), rtol=1e-5, atol=0)
    torch.testing.assert_close(step.grad.double(), -(r / d**2) / (math.log(2) * levels), rtol=1e-5, atol=0)


@pytest.mark.parametrize("code", [2, 3, 7, 100, 127])
def test_gradients_of_bits_are_finite_differences_without_the_roundings(code: int) -> None:
    step = torch.tensor([0.25], requires_grad=True)
    range = torch.tensor([0.25 * code], requires_grad=True)
    derived_bits(step, range, signed=True, least=2).backward()

    def smooth(d: float, r: float) -> float:
        return math.log2(r / d + 1) + 1

    d, r = 0.25, 0.25 * code
    assert float(step.grad) == pytest.approx((smooth(d + NUDGE, r) - smooth(d - NUDGE, r)) / (2 * NUDGE), rel=1e-4)
    assert float(range.grad) == pytest.approx((smooth(d, r + NUDGE) - smooth(d, r - NUDGE)) / (2 * NUDGE), rel=1e-4)


def test_below_the_floor_bits_have_no_gradient() -> None:
    step = torch.tensor([1.0, 1.0], requires_grad=True)
    range = torch.tensor([0.3, 1.0], requires_grad=True)
    bits = derived_bits(step, range, signed=False, least=2)
    assert bits.tolist() == [2.0, 2.0]
    bits.sum().backward()
    assert not step.grad.any() and not range.grad.any()


@settings(deadline=None)
@given(st.integers(1, 127), st.integers(-200, 200))
def test_bits_do_not_depend_on_the_scale(code: int, exponent: int) -> None:
    step = torch.tensor([2.0 ** (exponent / 4)])
    expected = max(2, math.ceil(math.log2(code + 1)) + 1)
    assert derived_bits(step, step * code, signed=True, least=2).tolist() == [expected]
