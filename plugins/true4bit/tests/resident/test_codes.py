from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcore.tensor.codecs import CODECS
from qcore_true4bit.resident.codes import (
    best_scale,
    dither,
    mean_scale,
    pack_codes,
    round_stochastic,
    unpack_codes,
)


def drawn(rows: int, cols: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(-7, 8, (rows, cols), generator=torch.Generator().manual_seed(seed)).float()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 5), st.integers(1, 19), st.integers(0, 9))
def test_the_bytes_are_those_of_packn(rows: int, cols: int, seed: int) -> None:
    codes = drawn(rows, cols, seed)
    packed = pack_codes(codes)
    assert torch.equal(packed, CODECS["packn@1"].encode((codes + 8).to(torch.uint8), 4))
    assert torch.equal(unpack_codes(packed, cols), codes)


def test_golden_bytes() -> None:
    assert pack_codes(torch.tensor([[-7.0, 7.0, 0.0]])).tolist() == [[0xF1, 0x08]]


def test_packing_leaves_its_input_alone() -> None:
    codes = drawn(2, 5)
    before = codes.clone()
    pack_codes(codes)
    assert torch.equal(codes, before)


def test_dither_is_uniform_between_minus_and_plus_one_half() -> None:
    count = 200_000
    numbers = dither(torch.Size([count]), torch.Generator().manual_seed(0)).double()
    assert -0.5 < numbers.min() < -0.499 and 0.499 < numbers.max() < 0.5
    assert abs(numbers.mean()) < 5 * (1 / 12 / count) ** 0.5
    assert abs(numbers.var() - 1 / 12) < 5 * (1 / 180 / count) ** 0.5
    assert torch.corrcoef(torch.stack([numbers[:-1], numbers[1:]]))[0, 1].abs() < 5 / count**0.5


@pytest.mark.parametrize("x", [-6.75, -0.5, -0.01, 0.0, 0.002, 0.3, 3.0, 5.999])
def test_stochastic_rounding_is_unbiased_and_goes_to_a_neighbour(x: float) -> None:
    count, low = 100_000, torch.tensor(x).floor().item()
    rounded = round_stochastic(torch.full((count,), x), torch.Generator().manual_seed(1)).double()
    assert set(rounded.unique().tolist()) <= {low, low + 1}
    share = x - low
    five_sigma = 5 * (share * (1 - share) / count) ** 0.5 + 2**-17
    assert abs(float(rounded.mean()) - x) <= five_sigma


def test_equal_seeds_round_equally_and_the_global_state_is_left_alone() -> None:
    before = torch.get_rng_state()
    a, b = (round_stochastic(torch.full((99,), 0.5), torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(a, b)
    assert torch.equal(torch.get_rng_state(), before)


def test_scales() -> None:
    weight = torch.randn(4, 500, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(mean_scale(weight), 2 * weight.abs().mean(1) / 7**0.5)
    best = best_scale(weight)

    def error(scale: torch.Tensor) -> torch.Tensor:
        step = scale.unsqueeze(1)
        return ((weight / step).round().clamp(-7, 7) * step - weight).square().sum(1)

    assert (error(best) <= error(mean_scale(weight)) * 1.01).all()
    assert (error(best) <= error(weight.abs().amax(1) / 7)).all()


def test_a_row_of_zeros_has_the_scale_of_usual_weights() -> None:
    weight = torch.zeros(2, 16)
    assert best_scale(weight).tolist() == mean_scale(weight).tolist() == pytest.approx([0.335 / 4] * 2)
