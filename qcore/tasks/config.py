"""Options of the built-in tasks. This module imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "BreastCancerConfig",
    "DiabetesConfig",
    "DigitsConfig",
    "ImagesConfig",
    "TableConfig",
    "TaskConfig",
]


class TaskConfig(BaseModel):
    """Options that every task has: none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DigitsConfig(TaskConfig):
    """``core/digits`` takes no options."""


class BreastCancerConfig(TaskConfig):
    """``core/breast_cancer`` takes no options."""


class DiabetesConfig(TaskConfig):
    """``core/diabetes`` takes no options."""


class TableConfig(TaskConfig):
    """Options of ``core/table``. Columns are named as in the file; a two-dimensional npz array has a column a feature.

    ``features`` and ``drop`` take names or globs of columns, or the name of an npz array for all of its columns.
    """

    data: str | None = Field(None, description="csv, parquet or npz file; relative to here, then to QCORE_DATA")
    target: str = Field("y", description="column to predict")
    group: str | None = Field(None, description="column whose values never span folds, such as a speaker")
    folds_column: str | None = Field(None, description="column with the data's own folds; negative = never tested")
    split_column: str | None = Field(None, description="column with one fixed split: 0 = train, 1 = test")
    spanning_groups: Literal["error", "purge"] = Field(
        "error", description="a group that spans the data's own folds: refuse, or keep it out of the training part"
    )
    features: tuple[str, ...] | None = Field(None, description="columns to learn from; default: all that are left")
    drop: tuple[str, ...] = Field((), description="columns to leave out")
    problem: Literal["auto", "classification", "regression"] = Field("auto", description="kind of target")


class ImagesConfig(TaskConfig):
    """Options of ``core/images``: a folder with one folder of images a class."""

    data: str | None = Field(None, description="folder of class folders; relative to here, then to QCORE_DATA")
    size: int = Field(32, ge=8, le=1024, description="images are resized to size x size pixels")
    channels: Literal[1, 3] = Field(3, description="1 = grey, 3 = red, green, blue")
