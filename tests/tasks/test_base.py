from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from qcore.errors import DataError
from qcore.tasks import Task, TaskData

Make = Callable[..., Task]


def test_the_targets_dtype_decides_the_problem(labelled: Make, measured: Make) -> None:
    task = labelled([0, 1, 2])
    assert (task.problem, task.metric, task.higher_is_better, task.out_features) == (
        "classification",
        "f1_weighted",
        True,
        3,
    )
    task = measured([0.5, 1.5])
    assert (task.problem, task.metric, task.higher_is_better, task.out_features) == ("regression", "mse", False, 1)


def test_classification_loss_is_cross_entropy(labelled: Make) -> None:
    task = labelled([0, 1])
    logits, target = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    by_hand = (torch.log(1 + torch.exp(torch.tensor(-2.0))) + torch.log(1 + torch.exp(torch.tensor(-1.0)))) / 2
    assert torch.allclose(task.loss(logits, target), by_hand)
    assert task.loss(logits, target, label_smoothing=0.1) > task.loss(logits, target)


def test_regression_loss_is_squared_error_in_units_of_the_scale(measured: Make) -> None:
    task = measured([10.0, 20.0, 30.0])
    output, target = torch.tensor([[12.0], [16.0]]), torch.tensor([10.0, 20.0])
    assert float(task.loss(output, target)) == pytest.approx((4 + 16) / 2)
    assert float(task.loss(output, target, scale=2.0)) == pytest.approx((4 + 16) / 8)


def test_a_loss_in_units_of_loss_scale_is_one_for_the_constant_mean(measured: Make) -> None:
    task = measured([10.0, 20.0, 40.0])
    target = task.data.targets
    scale = task.loss_scale(target)
    assert float(task.loss(target.mean().expand(3), target, scale=scale)) == pytest.approx(1.0)
    assert task.loss_scale(torch.tensor([3.0, 3.0])) == 1.0
    assert task.loss_scale(torch.tensor([1, 2])) == 1.0


def test_predictions_are_classes_or_values(labelled: Make, measured: Make) -> None:
    assert labelled([0, 1]).predictions(torch.tensor([[0.1, 0.9], [2.0, 1.0]])).tolist() == [1, 0]
    assert measured([0.0, 1.0]).predictions(torch.tensor([[3.0], [4.0]])).tolist() == [3.0, 4.0]


def test_scores_hold_every_metric(labelled: Make, measured: Make) -> None:
    task = labelled([0, 1])
    assert tuple(task.scores(torch.eye(2), torch.tensor([0, 1]))) == task.metrics
    task = measured([0.0, 1.0])
    assert tuple(task.scores(torch.zeros(2, 1), torch.tensor([0.0, 1.0]))) == task.metrics


def test_the_default_model_fits_the_inputs(labelled: Make, given: Callable[[TaskData], Task]) -> None:
    assert labelled([0, 1, 2]).default_model() == ("core/mlp", {"in_features": 1, "out_features": 3})
    images = TaskData(inputs=torch.zeros(4, 3, 8, 8), targets=torch.tensor([0, 1, 0, 1]), class_names=("a", "b"))
    assert given(images).default_model() == ("core/cnn", {"in_channels": 3, "image_size": 8, "out_features": 2})


def test_the_digest_sees_every_number_and_the_shapes() -> None:
    def digest(**changed: torch.Tensor) -> str:
        arrays = {"inputs": torch.arange(6.0).reshape(2, 3), "targets": torch.tensor([0, 1])} | changed
        return TaskData(**arrays, class_names=("a", "b")).digest  # type: ignore[arg-type]

    digests = {
        digest(),
        digest(inputs=torch.arange(6.0).reshape(3, 2)),
        digest(targets=torch.tensor([1, 1])),
        digest(groups=torch.tensor([0, 1])),
        digest(folds=torch.tensor([0, 1])),
    }
    assert len(digests) == 5
    assert digest() == digest()


def _data(**changed: object) -> TaskData:
    values: dict[str, object] = {
        "inputs": torch.arange(6.0).reshape(3, 2),
        "targets": torch.tensor([0, 1, 0]),
        "feature_names": ("width", "height"),
        "class_names": ("a", "b"),
    }
    return TaskData(**(values | changed))  # type: ignore[arg-type]


def test_good_data_pass(given: Callable[[TaskData], Task]) -> None:
    assert len(given(_data()).data) == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_refused_by_column(given: Callable[[TaskData], Task], bad: float) -> None:
    inputs = torch.tensor([[1.0, 2.0], [3.0, bad], [5.0, bad]])
    with pytest.raises(DataError, match=r"column 'height' \(2 of 3 rows, first row 1\)") as caught:
        _ = given(_data(inputs=inputs)).data
    assert "width" not in str(caught.value)
    assert caught.value.exit_code == 5


def test_nan_in_the_target_or_in_an_image_is_refused(given: Callable[[TaskData], Task]) -> None:
    targets = torch.tensor([0.0, float("nan"), 1.0])
    with pytest.raises(DataError, match=r"the target \(1 of 3 rows, first row 1\)"):
        _ = given(_data(targets=targets, class_names=())).data
    with pytest.raises(DataError, match="feature 0"):
        _ = given(_data(inputs=torch.full((3, 1, 2, 2), float("nan")), feature_names=())).data


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"targets": torch.tensor([1, 1, 1])}, "one class only"),
        ({"targets": torch.tensor([0, 1])}, r"targets have shape \(2,\), expected \(3,\)"),
        ({"groups": torch.tensor([0, 1])}, "groups have shape"),
        ({"targets": torch.tensor([0, 1, 5])}, "class indices run from 0 to 5, with 2 names"),
        ({"inputs": torch.zeros(0, 2), "targets": torch.zeros(0, dtype=torch.int64)}, "no samples"),
        ({"inputs": torch.zeros(3, 0)}, "no feature column"),
    ],
)
def test_data_that_cannot_be_learned_from_are_refused(
    given: Callable[[TaskData], Task], changed: dict[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        _ = given(_data(**changed)).data
