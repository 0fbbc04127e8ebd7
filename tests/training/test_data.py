from __future__ import annotations

import pytest
import torch

from qcore.training.data import FoldTensors, batches, steps_per_epoch


def fold(rows: int) -> FoldTensors:
    inputs = torch.arange(rows).float().unsqueeze(1)
    return FoldTensors(inputs, torch.arange(rows), inputs[:0], torch.arange(0))


def order(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("rows", "batch_size"), [(1, 4), (5, 4), (8, 4), (9, 4), (65, 64), (3, 100)])
def test_an_epoch_visits_every_row_once_in_batches_of_nearly_equal_size(rows: int, batch_size: int) -> None:
    drawn = list(batches(fold(rows), batch_size, order()))
    sizes = [len(targets) for _, targets in drawn]
    assert torch.cat([targets for _, targets in drawn]).sort().values.tolist() == list(range(rows))
    assert max(sizes) <= batch_size and max(sizes) - min(sizes) <= 1
    assert len(sizes) == steps_per_epoch(rows, batch_size)
    assert all(torch.equal(inputs[:, 0].long(), targets) for inputs, targets in drawn)


def test_one_generator_gives_one_order_and_the_next_epoch_another() -> None:
    def epoch(generator: torch.Generator) -> list[int]:
        return torch.cat([targets for _, targets in batches(fold(50), 8, generator)]).tolist()

    generator = order(1)
    first, second = epoch(generator), epoch(generator)
    assert first == epoch(order(1))
    assert first != second


@pytest.mark.parametrize("rows", [7, 8, 9])
def test_ranks_share_an_epoch_and_take_the_same_number_of_steps(rows: int) -> None:
    shares = [
        [targets.tolist() for _, targets in batches(fold(rows), 4, order(), rank=rank, world_size=2)]
        for rank in range(2)
    ]
    assert len(shares[0]) == len(shares[1]) == steps_per_epoch(rows, 4, 2)
    seen = [row for share in shares for batch in share for row in batch]
    assert set(seen) == set(range(rows))
    assert len(seen) == rows + rows % 2
