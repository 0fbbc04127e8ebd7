"""A task and a method that train within seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import qcore
from qcore.methods import Arm
from qcore.tasks import Task, TaskData
from qcore_hetero_diffq.method import HeteroDiffq

SMALL = {
    "hidden": (14, 12),
    "batch_size": 32,
    "epochs": 3,
    "homogeneous_epochs": 2,
    "mixed_epochs": 3,
    "tune_epochs": 2,
    "budgets": ("2bit", "3bit"),
}


class Blobs(Task):
    """Three classes that the first two features tell apart."""

    def load(self) -> TaskData:
        inputs = torch.randn(160, 6, generator=torch.Generator().manual_seed(1))
        targets = torch.bucketize((inputs[:, 0] * inputs[:, 1]).contiguous(), torch.tensor([-0.3, 0.3]))
        return TaskData(inputs=inputs, targets=targets, class_names=("a", "b", "c"), source="drawn")


def make(**options: Any) -> HeteroDiffq:
    method = qcore.get("method", "hetero_diffq", **{**SMALL, **options})
    assert isinstance(method, HeteroDiffq)
    return method


def arm_of(method: HeteroDiffq, name: str) -> Arm:
    return next(arm for arm in method.arms() if arm.name == name)


def build(method: HeteroDiffq, name: str) -> nn.Module:
    """Return an arm's network; what it needs is not trained."""
    arm, task = arm_of(method, name), Blobs()
    sources = {need: build(method, need) for need in arm.needs}
    return method.build(arm, task, torch.Generator().manual_seed(0), sources)


@pytest.fixture(scope="session")
def method() -> Callable[..., HeteroDiffq]:
    return make


@pytest.fixture(scope="session")
def network() -> Callable[..., nn.Module]:
    return build


@pytest.fixture(scope="session")
def blobs() -> Task:
    return Blobs()
