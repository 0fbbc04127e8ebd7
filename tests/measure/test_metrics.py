from __future__ import annotations

import math

import pytest
import torch

from qcore.errors import QcoreError
from qcore.measure.metrics import (
    classification_scores,
    expected_calibration_error,
    negative_log_likelihood,
    regression_scores,
)


def logits(predicted: list[int], classes: int, sureness: float = 5.0) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(predicted), classes).float() * sureness


def test_f1_and_accuracy_equal_their_values_worked_by_hand() -> None:
    # class 0: precision 2/3, recall 1, F1 0.8; class 1: 1/1, 1/2, F1 2/3; class 2: 1/1, 1/1, F1 1
    scores = classification_scores(logits([0, 0, 0, 1, 2], 3), torch.tensor([0, 0, 1, 1, 2]))
    assert scores["f1_macro"] == pytest.approx((0.8 + 2 / 3 + 1) / 3)
    assert scores["f1_weighted"] == pytest.approx((2 * 0.8 + 2 * 2 / 3 + 1) / 5)
    assert scores["accuracy"] == pytest.approx(0.8)


def test_a_class_that_is_never_predicted_scores_zero_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    scores = classification_scores(logits([0, 0, 0], 3), torch.tensor([0, 0, 1]))
    assert scores["f1_macro"] == pytest.approx(0.4) and not recwarn.list


def test_nll_is_in_nats_and_survives_extreme_logits() -> None:
    assert negative_log_likelihood(torch.zeros(3, 4), torch.tensor([0, 1, 2])) == pytest.approx(math.log(4))
    assert negative_log_likelihood(torch.tensor([[1e4, 0.0]]), torch.tensor([1])) == pytest.approx(1e4)


def test_ece_is_the_mean_gap_between_confidence_and_accuracy() -> None:
    half_right = torch.tensor([0, 1])
    sure = torch.tensor([[100.0, 0.0], [100.0, 0.0]])
    assert expected_calibration_error(sure, half_right) == pytest.approx(0.5)
    unsure = torch.zeros(2, 2)
    assert expected_calibration_error(unsure, half_right) == pytest.approx(0.0)
    mixed = torch.log(torch.tensor([[0.9, 0.1], [0.6, 0.4]]))
    assert expected_calibration_error(mixed, half_right) == pytest.approx((0.1 + 0.6) / 2)
    one_bin = expected_calibration_error(mixed, half_right, bins=1)
    assert one_bin == pytest.approx(abs(0.5 - 0.75))


def test_regression_scores_equal_their_values_worked_by_hand() -> None:
    scores = regression_scores(torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 3.0, 3.0]))
    assert scores["mse"] == pytest.approx(5 / 3) and scores["mae"] == pytest.approx(1.0)
    assert scores["r2"] == pytest.approx(1 - 5 / (8 / 3))
    assert regression_scores(torch.tensor([2.0]), torch.tensor([2.0]))["r2"] == 1.0
    assert regression_scores(torch.tensor([2.0, 3.0]), torch.tensor([2.0, 2.0]))["r2"] == 0.0


def test_scores_of_several_outputs_are_the_means_of_each_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, targets = (torch.randn(50, 3, generator=generator) * torch.tensor([1.0, 10.0, 0.1]) for _ in range(2))
    targets[:, 2] = 4.0
    found = regression_scores(outputs, targets)
    each = [regression_scores(outputs[:, i], targets[:, i]) for i in range(3)]
    for name in ("mse", "mae", "r2"):
        assert found[name] == pytest.approx(sum(one[name] for one in each) / 3)
    assert each[2]["r2"] == 0.0
    from sklearn.metrics import mean_squared_error, r2_score

    assert found["mse"] == pytest.approx(mean_squared_error(targets, outputs))
    # scikit-learn gives a constant target that is missed an r2 of 0 as well.
    assert found["r2"] == pytest.approx(r2_score(targets, outputs))


def test_one_column_scores_as_one_output_to_the_last_bit() -> None:
    outputs, targets = (torch.randn(1001, generator=torch.Generator().manual_seed(i)) for i in range(2))
    assert regression_scores(outputs, targets) == regression_scores(outputs[:, None], targets[:, None])


def test_unusable_outputs_are_refused() -> None:
    with pytest.raises(QcoreError, match="NaN"):
        classification_scores(torch.tensor([[float("nan"), 0.0]]), torch.tensor([0]))
    with pytest.raises(QcoreError, match="NaN"):
        regression_scores(torch.tensor([float("inf")]), torch.tensor([0.0]))
    with pytest.raises(QcoreError, match="no samples"):
        classification_scores(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64))
