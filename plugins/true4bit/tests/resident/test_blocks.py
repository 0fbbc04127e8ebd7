from __future__ import annotations

import pytest
import torch

from qcore_true4bit.resident.blocks import (
    BLOCK,
    block_count,
    decode_signed,
    decode_unsigned,
    encode_signed,
    encode_unsigned,
)

SHAPES = [(3, 1), (2, 27), (2, BLOCK), (2, BLOCK + 1), (4, 1009), (1, 4096)]


def drawn(shape: tuple[int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(shape[1])
    return torch.randn(shape, generator=generator) * torch.randn(shape, generator=generator).exp() * 1e-4


def spread(peaks: torch.Tensor, cols: int) -> torch.Tensor:
    length = -(-cols // peaks.shape[1])
    return peaks.repeat_interleave(length, dim=1)[:, :cols]


@pytest.mark.parametrize("shape", SHAPES)
def test_signed_numbers_come_back_within_the_stated_bound(shape: tuple[int, int]) -> None:
    x = drawn(shape)
    codes, peaks = encode_signed(x)
    assert codes.dtype == torch.int8 and codes.shape == x.shape
    assert peaks.shape == (shape[0], block_count(shape[1]))
    peak = spread(peaks, shape[1])
    bound = peak * (2 * (x.abs() / peak).sqrt() / 254 + 1 / 254**2)
    error = (decode_signed(codes, peaks) - x).abs()
    assert (error <= bound * 1.0001 + 1e-12).all()
    assert error.amax(1).max() > 0 or shape[1] == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_unsigned_numbers_come_back_within_a_step(shape: tuple[int, int]) -> None:
    x = drawn(shape).square()
    codes, peaks = encode_unsigned(x, torch.Generator().manual_seed(0))
    back = decode_unsigned(codes, peaks)
    assert codes.dtype == torch.uint8
    least = spread(peaks, shape[1]) * 2.0**-24
    ratio = back / torch.maximum(x, least)
    step = 2 ** (24 / 254) * 1.0001
    assert ((ratio <= step) & (ratio >= 1 / step)).all()


def test_zeros_stay_zero_and_nothing_else_becomes_zero() -> None:
    x = torch.tensor([[0.0, 1e-20, 1.0, 0.0]])
    assert (decode_unsigned(*encode_unsigned(x, torch.Generator())) > 0).tolist() == [[False, True, True, False]]
    assert torch.equal(decode_signed(*encode_signed(torch.zeros(2, 5))), torch.zeros(2, 5))
    assert torch.equal(decode_unsigned(*encode_unsigned(torch.zeros(2, 5), torch.Generator())), torch.zeros(2, 5))


def test_a_slow_average_moves_in_the_mean_though_each_step_is_below_a_code() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.full((200, BLOCK), 0.5)
    x[:, 0] = 1.0
    codes, peaks = encode_unsigned(x, generator)
    for _ in range(100):
        value = decode_unsigned(codes, peaks)
        value[:, 1:] *= 1.001
        value[:, 0] = 1.0
        codes, peaks = encode_unsigned(value, generator)
    mean = float(decode_unsigned(codes, peaks)[:, 1:].log().mean().exp())
    assert abs(mean / (0.5 * 1.001**100) - 1) < 0.01
