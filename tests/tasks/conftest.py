"""Small tasks made of given arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from qcore.tasks import Task, TaskData

Given = Sequence[float] | None


class GivenTask(Task):
    """A task whose data are handed in."""

    def __init__(self, data: TaskData) -> None:
        super().__init__()
        self.given = data

    def load(self) -> TaskData:
        return self.given


def _integers(values: Given) -> torch.Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.int64)


@pytest.fixture
def given() -> Callable[[TaskData], Task]:
    return GivenTask


@pytest.fixture
def labelled() -> Callable[..., Task]:
    """Make a classification task whose only feature is the sample's number."""

    def make(targets: Sequence[int], groups: Given = None, folds: Given = None, spanning_groups: str = "error") -> Task:
        data = TaskData(
            inputs=torch.arange(len(targets), dtype=torch.float32)[:, None],
            targets=torch.tensor(targets, dtype=torch.int64),
            groups=_integers(groups),
            folds=_integers(folds),
            spanning_groups=spanning_groups,  # type: ignore[arg-type]
            class_names=tuple(f"class {label}" for label in range(max(targets) + 1)),
        )
        return GivenTask(data)

    return make


@pytest.fixture
def measured() -> Callable[..., Task]:
    """Make a regression task whose only feature is the sample's number."""

    def make(targets: Sequence[float] | Sequence[Sequence[float]], groups: Given = None) -> Task:
        data = TaskData(
            inputs=torch.arange(len(targets), dtype=torch.float32)[:, None],
            targets=torch.tensor(targets, dtype=torch.float32),
            groups=_integers(groups),
        )
        return GivenTask(data)

    return make
