"""What quantized layers compute from coded weights."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from qcore.quantizers import make_quantizer
from qcore.tensor import ActivationScheme, integer_conv2d, integer_linear
from qcore.tensor.arithmetic import Conv2dShape
from qcore.tensor.layers import conv2d, encode_images, linear


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def test_a_coded_input_is_summed_in_integers() -> None:
    weight, bias = make_quantizer("core/int(bits=4)").encode(normal(4, 9)), normal(4)
    x = ActivationScheme(8).encode(normal(5, 9))
    assert torch.equal(linear(x, weight, bias), integer_linear(x, weight, bias))


def test_a_float_input_meets_the_dequantized_weight() -> None:
    weight, bias = make_quantizer("core/int(bits=4)").encode(normal(4, 9)), normal(4)
    assert torch.equal(linear(normal(5, 9), weight, bias), F.linear(normal(5, 9), weight.decode(), bias))
    half = linear(normal(5, 9).bfloat16(), weight, bias)
    assert half.dtype == torch.bfloat16


def test_a_sample_is_one_token_of_an_image_layer() -> None:
    images = normal(3, 2, 6, 6)
    coded = encode_images(images, ActivationScheme(8))
    assert coded.shape == images.shape
    assert coded.scale.shape == (3, 1)
    assert torch.allclose(coded.decode(), images, atol=float(images.abs().max()) / 127)


def test_a_convolution_with_group_scales_is_one_of_dequantized_values() -> None:
    images = encode_images(normal(3, 2, 6, 6), ActivationScheme(8))
    shape = Conv2dShape(padding=(1, 1))
    by_row = make_quantizer("core/int(bits=4)").encode(normal(4, 2, 3, 3))
    assert torch.equal(conv2d(images, by_row, None, shape), integer_conv2d(images, by_row, None, shape, by_row.shape))
    by_group = make_quantizer("core/int(bits=4, granularity='group', group_size=6)").encode(normal(4, 2, 3, 3))
    expected = F.conv2d(images.decode(), by_group.decode(), None, *shape)
    assert torch.equal(conv2d(images, by_group, None, shape), expected)
