"""core/int: every variant keeps the one numeric truth, on easy slices and on hard ones."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcore.errors import CalibrationError, ConfigError, QuantizationError
from qcore.quantizers import Quantizer, make_quantizer

FLOATS = [torch.float32, torch.bfloat16, torch.float16]
ROW, TOKEN = "core/int", "core/int(granularity='token')"


@st.composite
def variants(draw: st.DrawFn) -> dict[str, Any]:
    """Draw the options of core/int, every combination that its config accepts."""
    bits = draw(st.integers(1, 8))
    granularity = draw(st.sampled_from(["tensor", "row", "group", "token"]))
    options: dict[str, Any] = {"bits": bits, "granularity": granularity}
    if granularity == "group":
        options["group_size"] = draw(st.integers(1, 9))
    if granularity != "token":
        options["dynamic"] = draw(st.booleans())
    if bits > 1:
        options["symmetric"] = draw(st.booleans())
        options["scale"] = draw(st.sampled_from(["absmax", "percentile", "mse"]))
        options["percentile"] = draw(st.sampled_from([50.0, 99.9, 100.0]))
    return options


def made(options: dict[str, Any] | str) -> Quantizer:
    quantizer = make_quantizer(options if isinstance(options, str) else {"quantizer": "core/int", **options})
    quantizer.tensor_name = "blocks.0.linear.weight"
    return quantizer


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hard(kind: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Return one of the slices that break quantizers."""
    x = normal(*shape, seed=seed)
    if kind == "zeros":
        x = x * 0
    elif kind == "constant":
        x = torch.full(shape, 0.37)
    elif kind == "huge range":
        spread = torch.logspace(-38, 38, max(x.numel(), 1))[: x.numel()].reshape(shape)
        x = x.sign() * spread * 3
    elif kind == "one outlier" and x.numel():
        x.view(-1)[0] = 3e38
    elif kind == "denormal":
        x = x * 1e-40
    limit = torch.finfo(dtype).max
    return x.clamp(-limit, limit).to(dtype)


KINDS = ["normal", "zeros", "constant", "huge range", "one outlier", "denormal"]
SHAPES = st.one_of(
    st.just((1, 1)), st.tuples(st.integers(1, 6), st.integers(1, 20)), st.just((7,)), st.just((3, 2, 3, 3)), st.just(())
)


@settings(max_examples=300)
@given(
    options=variants(),
    kind=st.sampled_from(KINDS),
    shape=SHAPES,
    seed=st.integers(0, 2**32),
    dtype=st.sampled_from(FLOATS),
)
def test_what_is_stored_is_what_was_evaluated_bit_for_bit(
    options: dict[str, Any], kind: str, shape: tuple[int, ...], seed: int, dtype: torch.dtype
) -> None:
    x = hard(kind, shape, seed, dtype)
    before = x.clone()
    quantizer = made(options)
    quantizer.initialize(x)
    evaluated, packed = quantizer.eval()(x), quantizer.quantize(x)
    trained = quantizer.train()(x.clone().requires_grad_())
    assert (evaluated.shape, evaluated.dtype) == (x.shape, dtype)
    assert torch.equal(packed.dequantize(), evaluated)
    assert torch.equal(trained.detach(), evaluated)
    assert torch.isfinite(evaluated).all()
    assert torch.equal(x, before)
    assert (packed.shape, packed.dtype) == (x.shape, dtype)


@given(options=variants(), shape=st.sampled_from([(0, 5), (5, 0), (0,), (2, 0, 3)]))
def test_empty_tensors_pass_through(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    quantizer = made(options)
    x = torch.zeros(shape)
    quantizer.initialize(x)
    assert torch.equal(quantizer(x), x)
    assert torch.equal(quantizer.quantize(x).dequantize(), x)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("symmetric", [True, False])
def test_no_element_is_off_by_more_than_half_a_step(bits: int, symmetric: bool) -> None:
    x = normal(5, 200)
    quantizer = made({"bits": bits, "symmetric": symmetric})
    encoded = quantizer.encode(x)
    # An affine zero point is rounded, so that the range shifts by up to half a step.
    steps = 0.5 if symmetric else 1.0
    assert bool(((quantizer(x) - x).abs() <= encoded.scale * steps * (1 + 1e-5)).all())
    levels = [len(row.unique()) for row in encoded.codes]
    assert max(levels) <= (2**bits - 1 if symmetric else 2**bits)


def test_one_bit_is_sign_times_mean_magnitude_and_zero_counts_as_positive() -> None:
    x = torch.tensor([[1.0, -3.0], [0.0, -0.0]])
    assert made("core/int(bits=1)")(x).tolist() == [[2, -2], [pytest.approx(0, abs=1e-29)] * 2]
    assert made("core/int(bits=1)").encode(x).codes.tolist() == [[1, -1], [1, 1]]


def test_zeros_that_fill_up_the_last_group_do_not_count_in_its_mean() -> None:
    x = torch.tensor([[1.0, 1.0, 1.0, 4.0]])
    for dynamic in (True, False):
        quantizer = made({"bits": 1, "granularity": "group", "group_size": 3, "dynamic": dynamic})
        quantizer.initialize(x)
        assert quantizer(x).tolist() == [[1, 1, 1, 4]]


def test_the_mean_of_huge_magnitudes_does_not_overflow() -> None:
    x = torch.full((1, 50), 3e38)
    assert torch.equal(made("core/int(bits=1)")(x), x)


def test_each_granularity_has_the_scales_that_it_promises() -> None:
    x = normal(6, 10)
    shapes = {
        "tensor": (1, 1),
        "row": (6, 1),
        "token": (6, 1),
    }
    for granularity, shape in shapes.items():
        assert made({"granularity": granularity}).encode(x).scale.shape == shape
    assert made({"granularity": "group", "group_size": 4}).encode(x).scale.shape == (6, 3)
    assert made(ROW).encode(normal(2, 3, 4)).scale.shape == (2, 1)
    assert made(TOKEN).encode(normal(2, 3, 4)).scale.shape == (6, 1)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_least_squared_error_is_never_worse_than_the_full_range(bits: int, symmetric: bool) -> None:
    x = normal(20, 300) ** 3
    options = {"bits": bits, "symmetric": symmetric}
    plain, best = made(options), made(options | {"scale": "mse"})
    errors = [(q(x) - x).double().square().sum(dim=1) for q in (plain, best)]
    assert bool((errors[1] <= errors[0]).all())
    assert bits == 8 or bool((errors[1] < errors[0]).any())


def test_a_percentile_clips_the_outliers_and_all_of_them_clips_nothing() -> None:
    x = torch.cat([torch.linspace(-1, 1, 999), torch.tensor([100.0])])[None]
    clipped = made("core/int(scale='percentile', percentile=99.9)")(x)
    assert clipped.max() == pytest.approx(1, abs=1e-3)
    assert torch.equal(made("core/int(scale='percentile', percentile=100)")(x), made(ROW)(x))


@given(seed=st.integers(0, 2**32), percentile=st.floats(0.1, 100), count=st.integers(1, 300))
def test_a_percentile_is_the_magnitude_of_its_rank(seed: int, percentile: float, count: int) -> None:
    x = normal(3, count, seed=seed)
    rank = min(count, max(1, round(percentile / 100 * count)))
    expected = x.abs().sort(dim=1).values[:, rank - 1 : rank]
    scale = made({"bits": 4, "scale": "percentile", "percentile": percentile}).encode(x).scale
    assert torch.equal(scale, expected.clamp_min(2.0**-100) / torch.tensor(7.0))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("scale", ["absmax", "percentile", "mse"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_value_that_is_not_finite_is_refused_by_the_name_of_its_tensor(
    bad: float, scale: str, dtype: torch.dtype
) -> None:
    x = normal(4, 6).to(dtype)
    x[2, 3] = bad
    for options in ({"scale": scale}, {"scale": scale, "symmetric": False}, {"bits": 1}, {"granularity": "token"}):
        for work in (made(options), made(options).quantize, made(options).encode):
            with pytest.raises(QuantizationError, match=r"blocks\.0\.linear\.weight holds 1 values of 24"):
                work(x)
    with pytest.raises(QuantizationError, match="blocks"):
        made({"scale": scale, "granularity": "tensor", "dynamic": False}).initialize(x)


def test_a_float64_that_float32_cannot_hold_is_refused_and_not_made_infinite() -> None:
    with pytest.raises(QuantizationError, match="float32"):
        made(ROW)(torch.tensor([[1e300, 1.0]], dtype=torch.float64))


def test_many_huge_values_are_finite_and_are_not_refused() -> None:
    x = torch.full((100, 3), 3e38)
    assert torch.allclose(made(ROW)(x), x)


def test_the_gradient_passes_unchanged_where_nothing_is_clipped() -> None:
    for options in ({}, {"bits": 1}, {"symmetric": False, "bits": 3}, {"granularity": "group", "group_size": 4}):
        x = normal(3, 10).requires_grad_()
        upstream = normal(3, 10, seed=1)
        made(options)(x).backward(upstream)
        assert x.grad is not None
        assert torch.equal(x.grad, upstream)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", ["row", "group", "tensor"])
@pytest.mark.parametrize("dynamic", [True, False])
def test_the_gradient_stops_where_the_range_clips(symmetric: bool, granularity: str, dynamic: bool) -> None:
    options = {"scale": "percentile", "percentile": 80, "bits": 4, "symmetric": symmetric, "dynamic": dynamic}
    size = {"group_size": 7} if granularity == "group" else {}
    quantizer = made(options | size | {"granularity": granularity})
    x = normal(4, 20).requires_grad_()
    quantizer.initialize(x.detach())
    upstream = normal(4, 20, seed=1)
    quantizer(x).backward(upstream)
    assert x.grad is not None
    stopped = x.grad == 0
    assert torch.equal(x.grad[~stopped], upstream[~stopped])
    magnitude = x.detach().abs()
    if symmetric and granularity == "row":
        bound = magnitude.sort(dim=1).values[:, 15:16]
        assert torch.equal(stopped, magnitude > bound)
    assert 0 < int(stopped.sum()) < 40
    assert torch.equal(quantizer.expected_gradient(x, upstream), x.grad)


def test_a_static_range_masks_what_lies_outside_it() -> None:
    quantizer = made("core/int(granularity='tensor', dynamic=False)")
    quantizer.initialize(torch.tensor([-1.0, 0.5]))
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0], requires_grad=True)
    y = quantizer(x)
    y.sum().backward()
    assert y.tolist() == [pytest.approx(-1), pytest.approx(-1), 0, pytest.approx(1), pytest.approx(1)]
    assert x.grad is not None
    assert x.grad.tolist() == [0, 1, 1, 1, 0]


def test_a_static_range_must_be_set_before_use_and_then_stays() -> None:
    quantizer = made("core/int(granularity='tensor', dynamic=False)")
    assert quantizer.needs_calibration
    assert quantizer.scheme() is None
    with pytest.raises(CalibrationError, match=r"blocks\.0\.linear\.weight"):
        quantizer(normal(2, 3))
    quantizer.initialize(normal(50, 3))
    assert not quantizer.needs_calibration
    first = quantizer.encode(normal(2, 3)).scale
    assert torch.equal(quantizer.encode(normal(2, 3) * 100).scale, first)
    assert first.item() == pytest.approx(float(normal(50, 3).abs().max()) / 127)


def test_a_dynamic_range_follows_the_data() -> None:
    quantizer = made("core/int(granularity='tensor')")
    quantizer.initialize(normal(2, 3))
    assert torch.equal(quantizer.encode(normal(2, 3) * 64).scale, quantizer.encode(normal(2, 3)).scale * 64)


@given(options=variants())
def test_the_state_of_a_quantizer_comes_back_with_its_state_dict(options: dict[str, Any]) -> None:
    x, y = normal(5, 12), normal(5, 12, seed=1)
    quantizer = made(options)
    quantizer.initialize(x)
    again = made(options)
    again.load_state_dict(quantizer.state_dict())
    assert torch.equal(again(y), quantizer(y))
    assert again.needs_calibration == quantizer.needs_calibration
    assert torch.equal(copy.deepcopy(quantizer)(y), quantizer(y))


@given(options=variants())
def test_a_description_makes_the_same_quantizer_again(options: dict[str, Any]) -> None:
    quantizer = made(options)
    assert make_quantizer(quantizer.describe()).config == quantizer.config


@given(options=variants())
def test_nothing_draws_from_the_global_random_state(options: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    quantizer = made(options)
    x = normal(3, 8).requires_grad_()
    quantizer.initialize(x.detach())
    quantizer(x).sum().backward()
    quantizer.quantize(x)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_width_is_told() -> None:
    assert made("core/int(bits=3)").bits().item() == 3


def test_schemes_say_what_kernels_can_run() -> None:
    scheme = made("core/int(bits=6, granularity='token', symmetric=False)").scheme()
    assert scheme is not None
    assert (scheme.bits, scheme.symmetric, scheme.per_token) == (6, False, True)
    for reference in (
        "core/int",
        "core/int(bits=1, granularity='token')",
        "core/int(granularity='token', scale='mse')",
    ):
        assert made(reference).scheme() is None
    static = made("core/int(granularity='tensor', dynamic=False, scale='mse')")
    static.initialize(normal(4, 4))
    scheme = static.scheme()
    assert scheme is not None
    assert not scheme.per_token
    assert torch.equal(scheme.encode(normal(2, 4)).decode(), static(normal(2, 4)))


@pytest.mark.parametrize(
    "reference",
    [
        "core/int(bits=0)",
        "core/int(bits=9)",
        "core/int(bits=1, symmetric=False)",
        "core/int(bits=1, scale='mse')",
        "core/int(granularity='group')",
        "core/int(group_size=4)",
        "core/int(granularity='group', group_size=0)",
        "core/int(granularity='token', dynamic=False)",
        "core/int(percentile=0)",
        "core/int(scale='best')",
        "core/int(bit=4)",
    ],
)
def test_options_that_make_no_sense_are_refused(reference: str) -> None:
    with pytest.raises(ConfigError):
        make_quantizer(reference)


def test_a_quantizer_of_one_slice_alone_equals_the_same_slice_among_others() -> None:
    x = normal(6, 50) * torch.logspace(-5, 5, 6)[:, None]
    for options in ({"bits": 4}, {"bits": 1}, {"scale": "mse", "bits": 3}, {"scale": "percentile"}):
        together = made(options)(x)
        for row in range(6):
            assert torch.equal(made(options)(x[row : row + 1])[0], together[row])


def test_a_hundred_thousand_columns_are_no_trouble() -> None:
    x = normal(2, 100_000)
    for options in ({"bits": 4}, {"bits": 1}, {"granularity": "group", "group_size": 64}, {"scale": "percentile"}):
        quantizer = made(options)
        assert torch.equal(quantizer.quantize(x).dequantize(), quantizer(x))


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_torchs_default_dtype_changes_nothing(default: torch.dtype) -> None:
    x = normal(4, 9)
    references = ("core/int(bits=1)", "core/int(bits=4)", "core/int(bits=4, symmetric=False)", TOKEN)
    expected = [made(reference)(x) for reference in references]
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        found = [made(reference)(x) for reference in references]
        packed = [made(reference).quantize(x).dequantize() for reference in references]
    finally:
        torch.set_default_dtype(before)
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(expected, packed, strict=True))
