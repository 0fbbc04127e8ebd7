from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from qcore.errors import DataError, UsageError
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


TWO = [[10.0, -1.0], [20.0, -2.0], [60.0, -6.0]]


def test_two_values_a_sample_are_a_regression_with_two_outputs(measured: Make) -> None:
    task = measured(TWO)
    assert (task.problem, task.metric, task.out_features) == ("regression", "mse", 2)
    assert task.default_model() == ("core/mlp", {"in_features": 1, "out_features": 2, "rescale": True})


def test_each_of_several_outputs_weighs_the_same_in_the_loss(measured: Make) -> None:
    task = measured(TWO)
    target = task.data.targets
    scale = task.loss_scale(target)
    assert isinstance(scale, torch.Tensor) and scale.dtype == torch.float32
    assert torch.allclose(scale, target.std(dim=0, correction=0))
    assert float(task.loss(target.mean(dim=0).expand(3, 2), target, scale=scale)) == pytest.approx(1.0)
    off = torch.tensor([scale[0], 0.0])
    assert float(task.loss(target + off, target, scale=scale)) == pytest.approx(0.5)
    assert float(task.loss(target + off.flip(0) / scale[0] * scale[1], target, scale=scale)) == pytest.approx(0.5)
    constant = torch.tensor([[1.0, 3.0], [2.0, 3.0]])
    assert task.loss_scale(constant).tolist() == [0.5, 1.0]  # type: ignore[union-attr]


def test_one_row_of_a_batch_keeps_its_outputs(measured: Make) -> None:
    task = measured(TWO)
    assert float(task.loss(torch.tensor([[11.0, 1.0]]), task.data.targets[:1])) == pytest.approx((1 + 4) / 2)
    assert task.predictions(torch.ones(1, 2)).shape == (1, 2)


@pytest.mark.parametrize(("outputs", "target"), [(1, TWO), (3, TWO), (2, [1.0, 2.0, 3.0]), (3, [1.0, 2.0, 3.0])])
def test_a_network_of_another_width_is_refused_and_not_broadcast(
    measured: Make, outputs: int, target: list[float]
) -> None:
    task = measured(target)
    wanted = task.out_features
    for ask in (task.loss, task.scores):
        with pytest.raises(UsageError, match=rf"gives {outputs} values a sample where the targets have {wanted}"):
            ask(torch.zeros(3, outputs), task.data.targets)


def test_scores_of_several_outputs_are_means_over_them(measured: Make) -> None:
    task = measured(TWO)
    target = task.data.targets
    found = task.scores(target + torch.tensor([1.0, 0.0]), target)
    assert found["mse"] == pytest.approx(0.5) and found["mae"] == pytest.approx(0.5)
    assert found["r2"] == pytest.approx(1 - 0.5 * 3 / float((target[:, 0] - 30).square().sum()))


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


def test_nan_in_one_of_several_targets_is_refused_by_its_name(given: Callable[[TaskData], Task]) -> None:
    targets = torch.tensor([[0.0, 1.0], [float("nan"), 1.0], [1.0, 1.0]])
    for names, shown in (((), "0"), (("delay", "drop"), "delay")):
        with pytest.raises(DataError, match=rf"the target '{shown}' \(1 of 3 rows, first row 1\)") as caught:
            _ = given(_data(targets=targets, class_names=(), target_names=names)).data
        assert "task.drop" not in str(caught.value)


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
        ({"targets": torch.zeros(3, 2, dtype=torch.int64)}, r"targets have shape \(3, 2\), expected \(3,\) or, of fl"),
        ({"targets": torch.zeros(3, 1)}, r"targets have shape \(3, 1\), expected \(3,\) or, of floats"),
        ({"targets": torch.zeros(2, 3)}, r"targets have shape \(2, 3\)"),
        ({"targets": torch.zeros(3, 2, 2)}, r"targets have shape \(3, 2, 2\)"),
        ({"targets": torch.zeros(3, 2), "target_names": ("a",)}, "1 target names for 2 outputs"),
        ({"targets": torch.zeros(3), "target_names": ("a",)}, "1 target names for no outputs"),
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
