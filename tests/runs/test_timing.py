from __future__ import annotations

import torch

from qcore.runs.timing import BATCHES, _batches


def test_a_small_test_part_still_fills_the_batches_that_latency_names() -> None:
    inputs = torch.arange(10.0).reshape(10, 1)
    found = _batches(inputs, torch.tensor([2, 5, 7]))
    assert {size: {len(batch) for batch in batches} for size, batches in found.items()} == {n: {n} for n in BATCHES}
    assert found[64][0].flatten()[:4].tolist() == [2.0, 5.0, 7.0, 2.0]


def test_single_samples_are_many_as_a_mixture_takes_not_equally_long_for_each() -> None:
    singles = _batches(torch.arange(100.0).reshape(100, 1), torch.arange(80))[1]
    assert [float(batch) for batch in singles] == list(range(64))
