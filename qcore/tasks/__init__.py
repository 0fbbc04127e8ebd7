"""Tasks: data, splits, metric and default model. Attributes load on first use, so config classes stay torch-free."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qcore.lazy import lazy_attributes

if TYPE_CHECKING:
    from qcore.tasks.base import Task, TaskData
    from qcore.tasks.bundled import BreastCancer, Diabetes, Digits
    from qcore.tasks.config import (
        BreastCancerConfig,
        DiabetesConfig,
        DigitsConfig,
        ImagesConfig,
        TableConfig,
        TaskConfig,
    )
    from qcore.tasks.images import Images
    from qcore.tasks.splits import Fold, make_folds
    from qcore.tasks.table import Table

__all__ = [
    "BreastCancer",
    "BreastCancerConfig",
    "Diabetes",
    "DiabetesConfig",
    "Digits",
    "DigitsConfig",
    "Fold",
    "Images",
    "ImagesConfig",
    "Table",
    "TableConfig",
    "Task",
    "TaskConfig",
    "TaskData",
    "make_folds",
]

__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "BreastCancer": "qcore.tasks.bundled",
        "BreastCancerConfig": "qcore.tasks.config",
        "Diabetes": "qcore.tasks.bundled",
        "DiabetesConfig": "qcore.tasks.config",
        "Digits": "qcore.tasks.bundled",
        "DigitsConfig": "qcore.tasks.config",
        "Fold": "qcore.tasks.splits",
        "Images": "qcore.tasks.images",
        "ImagesConfig": "qcore.tasks.config",
        "Table": "qcore.tasks.table",
        "TableConfig": "qcore.tasks.config",
        "Task": "qcore.tasks.base",
        "TaskConfig": "qcore.tasks.config",
        "TaskData": "qcore.tasks.base",
        "make_folds": "qcore.tasks.splits",
    },
)
