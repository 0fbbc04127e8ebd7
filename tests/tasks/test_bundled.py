from __future__ import annotations

import pytest
import torch

from qcore.tasks import BreastCancer, Diabetes, Digits, Task


@pytest.mark.parametrize(
    ("task", "shape", "classes", "metric"),
    [
        (Digits(), (1797, 64), 10, "f1_weighted"),
        (BreastCancer(), (569, 30), 2, "f1_weighted"),
        (Diabetes(), (442, 10), 0, "mse"),
    ],
)
def test_the_bundled_tasks_hold_real_data(task: Task, shape: tuple[int, int], classes: int, metric: str) -> None:
    data = task.data
    assert tuple(data.inputs.shape) == shape and data.inputs.dtype == torch.float32
    assert len(data.feature_names) == shape[1] and len(data.class_names) == classes
    assert task.metric == metric
    assert data.digest.startswith("sha256:")


def test_digits_keep_their_raw_range_and_diabetes_its_units() -> None:
    assert (Digits().data.inputs.min(), Digits().data.inputs.max()) == (0.0, 16.0)
    data = Diabetes().data
    assert (data.targets.min(), data.targets.max()) == (25.0, 346.0)
    assert data.inputs[:, data.feature_names.index("age")].max() == 79.0
