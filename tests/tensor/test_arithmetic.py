"""The one arithmetic: exact integer sums, then float32 in the documented order, bit for bit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from qcore.tensor import Encoded, integer_conv2d, integer_linear
from qcore.tensor.arithmetic import Conv2dShape, is_integer
from qcore.tensor.encoded import largest_code, offset_and_step, stored_range

ENCODINGS = st.sampled_from(["int", "uint", "ternary", "odd", "symmetric"])


def coded(
    rows: int,
    cols: int,
    generator: torch.Generator,
    *,
    encoding: str = "int",
    bits: int = 8,
    scales: int | None = None,
    shape: tuple[int, ...] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Encoded:
    width = 2 if encoding == "ternary" else bits
    step, offset = offset_and_step(encoding, width)
    low, top = stored_range(encoding, width)
    codes = torch.randint(low, top + 1, (rows, cols), generator=generator).float() * step + offset
    scale = torch.rand(rows if scales is None else scales, 1, generator=generator) + 0.01
    zero = torch.randint(0, top + 1, scale.shape, generator=generator).float() if encoding == "uint" else None
    return Encoded(codes, scale, torch.Size(shape or (rows, cols)), dtype, encoding, width, zero)


def as_int64(x: Encoded) -> npt.NDArray[np.int64]:
    zero = 0 if x.zero_point is None else x.zero_point.numpy().astype(np.int64)
    whole: npt.NDArray[np.int64] = x.codes.numpy().astype(np.int64) - zero
    return whole


def expected_linear(x: Encoded, w: Encoded, bias: torch.Tensor | None) -> torch.Tensor:
    """The documented order of operations: exact sum, to float32, times the product of the scales, plus the bias."""
    acc = (as_int64(x) @ as_int64(w).T).astype(np.float32)
    y = acc * (x.scale.numpy() * w.scale.numpy().reshape(1, -1))
    return torch.tensor(y if bias is None else y + bias.numpy().astype(np.float32))


@given(
    seed=st.integers(0, 2**32),
    rows=st.integers(0, 4),
    features=st.integers(0, 300),
    outputs=st.integers(0, 5),
    x_encoding=ENCODINGS,
    w_encoding=ENCODINGS,
    w_bits=st.integers(1, 8),
    per_tensor=st.booleans(),
    has_bias=st.booleans(),
)
def test_linear_equals_the_int64_reference_bit_for_bit(
    seed: int,
    rows: int,
    features: int,
    outputs: int,
    x_encoding: str,
    w_encoding: str,
    w_bits: int,
    per_tensor: bool,
    has_bias: bool,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = coded(rows, features, generator, encoding=x_encoding)
    w = coded(outputs, features, generator, encoding=w_encoding, bits=w_bits, scales=1 if per_tensor else None)
    bias = torch.randn(outputs, generator=generator) if has_bias else None
    assert torch.equal(integer_linear(x, w, bias), expected_linear(x, w, bias))


@pytest.mark.parametrize(("x_encoding", "w_encoding"), [("int", "int"), ("uint", "uint"), ("uint", "odd")])
@pytest.mark.parametrize("features", [1200, 20_000, 100_000])
def test_worst_case_sums_beyond_two_to_the_24_are_exact(x_encoding: str, w_encoding: str, features: int) -> None:
    signs = torch.where(torch.arange(features) % 997 == 0, -1.0, 1.0)  # an odd total, which float32 cannot hold

    def extreme(encoding: str, rows: int) -> Encoded:
        top = largest_code(encoding, 8)
        codes = torch.full((rows, features), float(-top if encoding == "int" else top))
        zero = torch.zeros(rows, 1) if encoding == "uint" else None
        return Encoded(codes, torch.full((rows, 1), 0.37), codes.shape, torch.float32, encoding, 8, zero)

    x, w = extreme(x_encoding, 2), extreme(w_encoding, 3)
    w.codes[1] = w.codes[1] * signs if w_encoding != "uint" else w.codes[1] * (signs > 0)
    w.codes[2, ::2] -= w.codes[2, ::2].sign()  # sums that need more bits than float32 has
    total = as_int64(x) @ as_int64(w).T
    assert np.abs(total).max() > 2**24
    bias = torch.tensor([0.1, -0.2, 0.3])
    assert torch.equal(integer_linear(x, w, bias), expected_linear(x, w, bias))


@pytest.mark.parametrize("features", [1100, 4000])
def test_many_odd_sums_just_beyond_two_to_the_24_are_rounded_once(features: int) -> None:
    generator = torch.Generator().manual_seed(0)

    def large(rows: int) -> Encoded:
        codes = torch.randint(119, 128, (rows, features), generator=generator).float()
        return Encoded(codes, torch.ones(rows, 1), codes.shape, torch.float32, "int", 8)

    x, w = large(64), large(64)
    assert (as_int64(x) @ as_int64(w).T).min() > 2**23 * 1.9
    assert torch.equal(integer_linear(x, w, None), expected_linear(x, w, None))
    in_float32 = x.codes @ w.codes.T
    assert features < 4000 or not torch.equal(in_float32, expected_linear(x, w, None))  # so float32 would not do


def test_the_bias_is_added_after_the_product_of_the_scales() -> None:
    one = torch.tensor([[1.0]])
    x = Encoded(one * 3, one * 0.1, torch.Size([1, 1]), torch.float32, "int", 8)
    w = Encoded(one * 7, one * 0.3, torch.Size([1, 1]), torch.float32, "int", 8)
    bias = torch.tensor([1.0])
    expected = np.float32(21) * (np.float32(0.1) * np.float32(0.3)) + np.float32(1)
    assert integer_linear(x, w, bias).item() == expected
    assert np.float32(21) * np.float32(0.1) * np.float32(0.3) + np.float32(1) != expected  # the order matters here


def test_leading_axes_are_tokens_and_the_output_has_the_dtype_of_the_input() -> None:
    generator = torch.Generator().manual_seed(0)
    x = coded(6, 5, generator, shape=(2, 3, 5), dtype=torch.bfloat16)
    w = coded(4, 5, generator)
    y = integer_linear(x, w, torch.zeros(4, dtype=torch.bfloat16))
    assert (y.shape, y.dtype) == ((2, 3, 4), torch.bfloat16)
    assert torch.equal(y.reshape(6, 4), expected_linear(x, w, torch.zeros(4)).bfloat16())


def test_autocast_does_not_touch_the_sums() -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = coded(5, 400, generator), coded(4, 400, generator)
    images = coded(2, 3 * 64, generator, shape=(2, 3, 8, 8))
    kernel = coded(4, 27, generator, shape=(4, 3, 3, 3))
    plain = integer_linear(x, w, None), integer_conv2d(images, kernel, None, Conv2dShape(), kernel.shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = integer_linear(x, w, None), integer_conv2d(images, kernel, None, Conv2dShape(), kernel.shape)
    assert all(torch.equal(a, b) for a, b in zip(plain, cast, strict=True))


@given(
    seed=st.integers(0, 2**32),
    cols=st.integers(1, 40),
    size=st.integers(1, 17),
    rows=st.integers(1, 3),
    affine=st.booleans(),
)
def test_group_scales_stay_within_the_documented_bound(
    seed: int, cols: int, size: int, rows: int, affine: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    groups = -(-cols // size)
    x = coded(rows, cols, generator, encoding="uint" if affine else "int")
    scale = torch.rand(4, groups, generator=generator) + 0.01
    codes = torch.randint(-7, 8, (4, cols), generator=generator).float()
    w = Encoded(codes, scale, codes.shape, torch.float32, "int", 4, None, size)
    assert is_integer(x, w) == (groups == 1)
    left, right = torch.tensor(as_int64(x)).double(), torch.tensor(as_int64(w)).double()
    exact, magnitude = torch.zeros(rows, 4).double(), torch.zeros(rows, 4).double()
    for group in range(groups):
        columns = slice(group * size, (group + 1) * size)
        part = left[:, columns] @ right[:, columns].T * x.scale.double() * scale[:, group].double()
        exact, magnitude = exact + part, magnitude + part.abs()
    error = (integer_linear(x, w, None).double() - exact).abs()
    assert bool((error <= (groups + 2) * 2**-23 * magnitude).all())


SHAPES = st.builds(
    Conv2dShape,
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 1)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    groups=st.sampled_from([1, 2, 4]),
)


@given(
    seed=st.integers(0, 2**32),
    shape=SHAPES,
    batch=st.integers(0, 3),
    encodings=st.tuples(ENCODINGS, ENCODINGS),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_convolution_equals_the_int64_reference_bit_for_bit(
    seed: int, shape: Conv2dShape, batch: int, encodings: tuple[str, str], kernel: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs, height, width = 4, 7, 6
    x = coded(batch, inputs * height * width, generator, encoding=encodings[0], shape=(batch, inputs, height, width))
    weight_shape = (4, inputs // shape.groups, *kernel)
    w = coded(4, int(np.prod(weight_shape[1:])), generator, encoding=encodings[1], shape=weight_shape)
    bias = torch.randn(4, generator=generator)
    images = torch.tensor(as_int64(x)).reshape(x.shape).double()
    acc = F.conv2d(images, torch.tensor(as_int64(w)).reshape(weight_shape).double(), None, *shape)
    expected = acc.float() * (x.scale.reshape(-1, 1, 1, 1) * w.scale.reshape(1, -1, 1, 1)) + bias.reshape(1, -1, 1, 1)
    assert torch.equal(integer_conv2d(x, w, bias, shape, torch.Size(weight_shape)), expected)


@pytest.mark.parametrize("onednn", [True, False], ids=["with oneDNN", "without oneDNN"])
@pytest.mark.parametrize("channels", [16, 300])
@pytest.mark.filterwarnings("ignore:TF32")
def test_large_convolutions_are_exact_whatever_runs_them(onednn: bool, channels: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = coded(16, channels * 100, generator, shape=(16, channels, 10, 10))
    w = coded(4, channels * 9, generator, shape=(4, channels, 3, 3), bits=4 if channels == 16 else 8)
    images, kernel = x.codes.reshape(x.shape).double(), w.codes.reshape(w.shape).double()
    acc = F.conv2d(images, kernel)
    expected = acc.float() * (x.scale.reshape(-1, 1, 1, 1) * w.scale.reshape(1, -1, 1, 1))
    with torch.backends.mkldnn.flags(enabled=onednn):
        assert torch.equal(integer_conv2d(x, w, None, Conv2dShape(), w.shape), expected)
