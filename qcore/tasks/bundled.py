"""Real data sets that scikit-learn carries: no download."""

from __future__ import annotations

from typing import Any

import torch

from qcore.tasks.base import Task, TaskData, as_inputs
from qcore.tasks.config import BreastCancerConfig, DiabetesConfig, DigitsConfig

__all__ = ["BreastCancer", "Diabetes", "Digits"]


class Digits(Task):
    """Handwritten digits: 1797 samples, 64 pixel counts of 0..16, ten classes.

    Source: UCI "Optical Recognition of Handwritten Digits" (test part), as bundled with scikit-learn.
    """

    Config = DigitsConfig

    def load(self) -> TaskData:
        """Return inputs (1797, 64) and targets (1797,)."""
        from sklearn.datasets import load_digits

        return _classification(load_digits(), "sklearn.datasets.load_digits")


class BreastCancer(Task):
    """Tumours, malignant or benign: 569 samples, 30 features of cell nuclei.

    Source: UCI "Breast Cancer Wisconsin (Diagnostic)", as bundled with scikit-learn.
    """

    Config = BreastCancerConfig

    def load(self) -> TaskData:
        """Return inputs (569, 30) and targets (569,)."""
        from sklearn.datasets import load_breast_cancer

        return _classification(load_breast_cancer(), "sklearn.datasets.load_breast_cancer")


class Diabetes(Task):
    """Disease progression after one year (25..346): 442 patients, 10 features in their original units.

    Source: B. Efron et al., "Least Angle Regression", Annals of Statistics 2004, as bundled with scikit-learn.
    """

    Config = DiabetesConfig

    def load(self) -> TaskData:
        """Return inputs (442, 10) and targets (442,) float32."""
        from sklearn.datasets import load_diabetes

        bunch = load_diabetes(scaled=False)
        return TaskData(
            inputs=as_inputs(bunch.data),
            targets=torch.as_tensor(bunch.target, dtype=torch.float32),
            feature_names=tuple(map(str, bunch.feature_names)),
            source="sklearn.datasets.load_diabetes",
        )


def _classification(bunch: Any, source: str) -> TaskData:
    return TaskData(
        inputs=as_inputs(bunch.data),
        targets=torch.as_tensor(bunch.target, dtype=torch.int64),
        feature_names=tuple(map(str, bunch.feature_names)),
        class_names=tuple(map(str, bunch.target_names)),
        source=source,
    )
