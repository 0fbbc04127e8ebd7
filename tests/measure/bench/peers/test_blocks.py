from __future__ import annotations

import numpy as np
import pytest

from qcore.measure.bench.peers.blocks import BLOCK, round_to_blocks


@pytest.mark.parametrize("bits", [2, 4])
def test_values_are_codes_times_scales_and_near_the_weight(bits: int) -> None:
    weight = np.random.default_rng(0).uniform(-1, 1, (3, BLOCK + 20)).astype(np.float32)
    found = round_to_blocks(weight, bits)
    assert found.codes.shape == (3, 2, BLOCK) and found.scales.shape == (3, 2)
    assert found.values.shape == weight.shape
    assert np.abs(found.values - weight).max() <= found.scales.max() / 2 + 1e-6
    assert (found.codes[:, 1, 20:] == 1 << (bits - 1)).all()
    assert found.nbytes == 3 * 2 * BLOCK * bits // 8 + 3 * 2 * 4


@pytest.mark.parametrize("bits", [2, 4])
def test_packed_codes_stand_lowest_bits_first(bits: int) -> None:
    weight = np.random.default_rng(0).uniform(-1, 1, (2, BLOCK)).astype(np.float32)
    found = round_to_blocks(weight, bits)
    each = 8 // bits
    places = np.arange(each) * bits
    unpacked = (found.packed()[..., None] >> places & ((1 << bits) - 1)).reshape(found.codes.shape)
    assert (unpacked == found.codes).all()


def test_a_weight_of_zeros_stays_zero() -> None:
    assert not round_to_blocks(np.zeros((1, BLOCK), np.float32), 4).values.any()
