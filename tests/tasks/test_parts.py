from __future__ import annotations

import numpy as np
import pytest
import torch

from qcore.errors import DataError, UsageError
from qcore.tasks import TaskData
from qcore.tasks.parts import Part, assemble, from_arrays


def part(labels: list[int]) -> Part:
    """Return a part whose pixels are the number of their row."""
    pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None].repeat(8, axis=2).repeat(8, axis=3)
    return from_arrays(pixels, np.array(labels, dtype=np.int64))


def made(train: list[int], test: list[int] | None, limit: int | None = None, classes: int = 3) -> TaskData:
    names = tuple("abcdefgh"[:classes])
    return assemble(part(train), None if test is None else part(test), names, "here", limit)


def test_parts_become_one_fold() -> None:
    data = made([2, 0, 1], [1, 0])
    assert data.inputs.dtype == torch.uint8 and tuple(data.inputs.shape) == (5, 1, 8, 8)
    assert data.inputs[:, 0, 0, 0].tolist() == [0, 1, 2, 0, 1]
    assert data.targets.tolist() == [2, 0, 1, 1, 0] and data.targets.dtype == torch.int64
    assert data.folds is not None and data.folds.tolist() == [-1, -1, -1, 0, 0]
    assert data.source == "here"


def test_without_a_test_part_there_is_no_fold() -> None:
    assert made([0, 1, 2], None).folds is None


def test_a_limit_takes_the_same_of_each_class() -> None:
    data = made([0] * 50 + [1] * 50 + [2] * 50, [0, 1, 2] * 10, limit=9)
    assert data.targets[:9].bincount().tolist() == [3, 3, 3] == data.targets[9:].bincount().tolist()
    assert data.folds is not None and data.folds.tolist() == [-1] * 9 + [0] * 9
    assert "at most 9 samples" in data.source


def test_a_small_class_leaves_its_share_to_the_others() -> None:
    data = made([0] * 50 + [1] * 2 + [2] * 50, None, limit=13)
    counts = data.targets.bincount().tolist()
    assert counts[1] == 2 and sorted(counts) == [2, 5, 6]


def test_a_limit_keeps_order_and_pixels_with_their_labels() -> None:
    labels = [0, 1, 2] * 20
    data = made(labels, None, limit=12)
    rows = data.inputs[:, 0, 0, 0].tolist()
    assert rows == sorted(rows) and [labels[row] for row in rows] == data.targets.tolist()


def test_the_same_samples_are_drawn_every_time_and_not_the_first_ones() -> None:
    state = torch.random.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index,union-attr]
    first, second = (made([0, 1, 2] * 60, None, limit=30) for _ in range(2))
    assert first.digest == second.digest
    assert first.inputs[:, 0, 0, 0].tolist() != list(range(30))
    assert torch.random.get_rng_state().equal(state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])  # type: ignore[index]


def test_a_limit_beyond_the_data_changes_nothing() -> None:
    assert made([0, 1, 2], [0, 1, 2], limit=100).inputs.equal(made([0, 1, 2], [0, 1, 2]).inputs)


def test_bad_parts_are_refused() -> None:
    with pytest.raises(DataError, match="labels run from 0 to 3, but there are 3 classes"):
        made([0, 1, 3], [0])
    with pytest.raises(DataError, match="no images"):
        made([0, 1, 2], [])
    with pytest.raises(UsageError, match="limit=2 cannot hold a sample of each of 3 classes"):
        made([0, 1, 2], [0], limit=2)


def test_only_the_chosen_rows_are_decoded() -> None:
    asked: list[int] = []

    def pixels(rows: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
        asked.extend(rows.tolist())
        return torch.zeros((len(rows), 1, 8, 8), dtype=torch.uint8)

    assemble(Part(np.array([0, 1] * 50), pixels), None, ("a", "b"), "here", 4)
    assert len(asked) == 4
