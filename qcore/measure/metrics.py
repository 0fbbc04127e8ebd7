"""Metrics of a test part. scikit-learn is imported when one is computed."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcore.errors import QcoreError

__all__ = ["classification_scores", "expected_calibration_error", "negative_log_likelihood", "regression_scores"]

ECE_BINS = 15
"""Bins of the calibration error: M = 15 in C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017."""


def classification_scores(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Return f1_weighted, f1_macro, accuracy, nll (nats) and ece of ``logits`` (n, classes) for ``targets`` (n,) int64.

    A class that occurs neither in the targets nor in the predictions takes no part in f1_macro; one without a correct
    prediction has an F1 of 0.

    Raises:
        QcoreError: the logits hold NaN or infinity, or there are no samples.
    """
    from sklearn.metrics import precision_recall_fscore_support

    _check(logits, targets)
    predicted, truth = logits.argmax(dim=-1).cpu().numpy(), targets.cpu().numpy()
    # One call for both averages: this runs after every epoch.
    _, _, f1, support = precision_recall_fscore_support(truth, predicted, average=None, zero_division=0)
    return {
        "f1_weighted": float(np.average(f1, weights=support)),
        "f1_macro": float(np.mean(f1)),
        "accuracy": float(np.mean(predicted == truth)),
        "nll": negative_log_likelihood(logits, targets),
        "ece": expected_calibration_error(logits, targets),
    }


def regression_scores(outputs: Tensor, targets: Tensor) -> dict[str, float]:
    """Return mse, mae and r2 of ``outputs`` for ``targets``, both (n,) or (n, outputs), in the targets' units.

    Of several outputs each is the plain mean over the outputs. r2 is 0.0 (1.0 if exact) where the targets are constant.

    Raises:
        QcoreError: the outputs hold NaN or infinity, or there are no samples.
    """
    _check(outputs, targets)
    pairs = zip(_columns(outputs), _columns(targets), strict=True)
    scores = [_scores_of_one(found, wanted) for found, wanted in pairs]
    return {name: float(np.mean([one[name] for one in scores])) for name in scores[0]}


def _scores_of_one(outputs: NDArray[np.float64], targets: NDArray[np.float64]) -> dict[str, float]:
    error = outputs - targets
    spread = float(np.square(targets - targets.mean()).sum())
    left = float(np.square(error).sum())
    constant = 1.0 if left == 0.0 else 0.0
    return {
        "mse": left / len(error),
        "mae": float(np.abs(error).mean()),
        "r2": 1.0 - left / spread if spread > 0.0 else constant,
    }


def negative_log_likelihood(logits: Tensor, targets: Tensor) -> float:
    """Return the mean of ``-log softmax(logits)[target]`` in nats, computed in float64."""
    log_probabilities = torch.log_softmax(logits.double(), dim=-1)
    return float(-log_probabilities.gather(1, targets[:, None]).mean())


def expected_calibration_error(logits: Tensor, targets: Tensor, bins: int = ECE_BINS) -> float:
    """Return ``sum_b n_b / n |accuracy_b - confidence_b|`` over equal-width bins of the top class's confidence.

    Source: C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, eq. 3.
    """
    confidence, predicted = torch.softmax(logits.double(), dim=-1).max(dim=-1)
    gap = _numpy((predicted == targets).double() - confidence)
    index = np.clip(np.ceil(_numpy(confidence) * bins).astype(int) - 1, 0, bins - 1)
    return float(np.abs(np.bincount(index, weights=gap, minlength=bins)).sum() / len(gap))


def _check(outputs: Tensor, targets: Tensor) -> None:
    if len(targets) == 0:
        raise QcoreError("there are no samples to score")
    if not bool(torch.isfinite(outputs).all()):
        raise QcoreError("the model's output holds NaN or infinity", "lower the learning rate, or look at its history")


def _columns(values: Tensor) -> list[NDArray[np.float64]]:
    array = _numpy(values)
    return [np.ascontiguousarray(column) for column in array.reshape(len(array), -1).T]


def _numpy(values: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = values.detach().double().cpu().numpy()
    return array
