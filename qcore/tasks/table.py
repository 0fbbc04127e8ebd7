"""The task ``core/table``: a file of features."""

from __future__ import annotations

import json
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qcore.errors import DataError, UsageError, did_you_mean
from qcore.tasks.base import Task, TaskData
from qcore.tasks.checks import check_finite
from qcore.tasks.config import TableConfig
from qcore.tasks.paths import resolve_data
from qcore.tasks.table_readers import Array, Columns, read_columns

__all__ = ["Table"]

_NEEDS = "a csv, parquet or npz file of features"
_CLASS_NAME_ARRAYS = ("class_names", "classes", "target_names", "categories", "category")


class Table(Task):
    """A csv, parquet or npz file with a column a feature, one for the target, and if wanted one for groups or folds.

    Features are, in this order of preference: the columns that the option ``features`` names; an npz file's array
    ``X``, or all its arrays ``X...``; every column that is neither target, group nor folds. Text is no feature: in an
    npz file it is passed over, elsewhere it must be dropped. Text targets become classes in sorted order.
    """

    Config = TableConfig
    config: TableConfig

    def load(self) -> TaskData:
        """Read the file.

        Raises:
            DataError: the file is missing or bad.
            UsageError: a column that the options name is not there.
        """
        path = resolve_data(self.config.data, self.spec_id or "core/table", _NEEDS)
        columns = read_columns(path, self.config.target)
        targets, class_names = _encode_target(columns, self.config.target, self.config.problem)
        names = _feature_columns(columns, self.config)
        groups = _column(columns, self.config.group) if self.config.group else None
        return TaskData(
            inputs=_stack(columns, names),
            targets=targets,
            groups=None if groups is None else _encode_groups(groups, columns.path, self.config.group),
            folds=_encode_folds(columns, self.config),
            spanning_groups=self.config.spanning_groups,
            feature_names=tuple(names),
            class_names=class_names,
            source=str(path),
        )

    @staticmethod
    def read_features(path: str | Path, feature_names: Iterable[str]) -> Tensor:
        """Read the columns ``feature_names``, in their order, for prediction; others in the file are ignored.

        Returns:
            (n, features) float32.

        Raises:
            UsageError: a column is not there.
            DataError: the file is missing or bad, or a column holds text, NaN or infinity.
        """
        names = list(feature_names)
        if not names:
            raise UsageError("the model was not trained on named columns, so no file of columns fits it")
        columns = read_columns(resolve_data(str(path), "prediction", _NEEDS))
        _check_known(columns, names)
        features = _stack(columns, names)
        check_finite(features, tuple(names), str(path))
        return features


# Columns by name.


def _column(columns: Columns, name: str) -> Array:
    _check_known(columns, [name])
    return columns.values[name]


def _check_known(columns: Columns, names: list[str]) -> None:
    missing = [name for name in names if name not in columns.values]
    if not missing:
        return
    known = sorted(columns.values)
    shown = ", ".join(map(repr, missing[:5])) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    hint = did_you_mean(missing[0], known) or f"its {len(known)} columns begin with: {', '.join(known[:5])}"
    raise UsageError(f"{columns.path} has no column {shown}", hint)


def _feature_columns(columns: Columns, config: TableConfig) -> list[str]:
    used = {config.target, config.group, config.folds_column, config.split_column}
    dropped = set(_matching(columns, config.drop))
    if config.features is not None:
        named = _matching(columns, config.features)
        if used & set(named):
            raise UsageError(f"{', '.join(sorted(map(repr, used & set(named))))} cannot be a feature as well")
        return [name for name in named if name not in dropped]
    offered = columns.values if columns.features is None else columns.features
    names = [name for name in offered if name not in used | dropped]
    return names if columns.strict else [name for name in names if _is_numeric(columns.values[name])]


def _matching(columns: Columns, patterns: Iterable[str]) -> list[str]:
    """Return the columns that are named, are of a named array, or match a glob: in the file's order, each once."""
    chosen: set[str] = set()
    for pattern in patterns:
        found = {pattern} & set(columns.values) or set(columns.arrays.get(pattern, ()))
        found = found or {name for name in columns.values if fnmatchcase(name, pattern)}
        if not found:
            raise UsageError(
                f"{columns.path}: {pattern!r} matches no column",
                did_you_mean(pattern, [*columns.values, *columns.arrays]),
            )
        chosen |= found
    return [name for name in columns.values if name in chosen]


def _is_numeric(values: Array) -> bool:
    return values.dtype.kind in "biuf"


def _stack(columns: Columns, names: list[str]) -> Tensor:
    text = [name for name in names if not _is_numeric(columns.values[name])]
    if text:
        name = text[0]
        example = next((str(value) for value in columns.values[name] if str(value)), "")
        raise DataError(
            f"{columns.path}: column {name!r} is text ({example!r}, for one), not numbers"
            + (f", and so are {len(text) - 1} more" if len(text) > 1 else ""),
            f"encode it, or leave it out with drop: --set task.drop='{json.dumps(text[:5])}'",
        )
    if not names:
        return torch.empty(len(next(iter(columns.values.values()))), 0)
    with np.errstate(over="ignore"):  # beyond float32 is infinity, which the checks name
        stacked = np.stack([columns.values[name] for name in names], axis=1).astype(np.float32)
    return torch.from_numpy(stacked)


# Target, groups and folds.


def _encode_target(columns: Columns, name: str, problem: str) -> tuple[Tensor, tuple[str, ...]]:
    """Return (n,) targets and the class names, which are empty for regression."""
    values = _column(columns, name)
    if _is_numeric(values):
        check_finite(torch.from_numpy(values.astype(np.float64)), (f"the target {name!r}",), str(columns.path))
    elif (values == "").any():
        missing = np.flatnonzero(values == "")
        raise DataError(f"{columns.path}: the target {name!r} is missing in {len(missing)} rows, first {missing[0]}")
    if problem == "regression" or (problem == "auto" and _is_quantity(values)):
        if not _is_numeric(values):
            raise DataError(f"{columns.path}: the target {name!r} is text, which no regression can predict")
        return torch.from_numpy(values.astype(np.float32)), ()
    labels, codes = np.unique(values, return_inverse=True)
    return torch.from_numpy(codes.astype(np.int64)), _class_names(columns, labels)


def _is_quantity(values: Array) -> bool:
    """Guess whether a target is a quantity: numbers of more than 20 values, unless few (100) whole ones that repeat."""
    if not _is_numeric(values) or values.dtype.kind == "b":
        return False
    distinct = len(np.unique(values))
    whole = bool((values == np.round(values)).all())
    return distinct > 20 and not (whole and distinct <= 100 and len(values) >= 5 * distinct)


def _class_names(columns: Columns, labels: Array) -> tuple[str, ...]:
    """Name the classes after the file's own list of names, if labels index it, else after their labels."""
    if labels.dtype.kind in "iu" and np.array_equal(labels, np.arange(len(labels))):
        for key in _CLASS_NAME_ARRAYS:
            given = columns.others.get(key)
            if given is not None and given.shape == labels.shape and given.dtype.kind == "U":
                return tuple(str(name) for name in given)
    if labels.dtype.kind == "f" and (labels == np.round(labels)).all():
        labels = labels.astype(np.int64)
    return tuple(str(label) for label in labels)


def _encode_groups(values: Array, path: Path, name: str | None) -> Tensor:
    missing = np.isnan(values) if values.dtype.kind == "f" else values == "" if values.dtype.kind == "U" else None
    if missing is not None and missing.any():
        raise DataError(f"{path}: the group column {name!r} is missing in {int(missing.sum())} rows")
    return torch.from_numpy(np.unique(values, return_inverse=True)[1].astype(np.int64))


def _encode_folds(columns: Columns, config: TableConfig) -> Tensor | None:
    name = config.folds_column or config.split_column
    if name is None:
        return None
    if config.folds_column and config.split_column:
        raise UsageError("folds_column and split_column exclude each other", "name one of them")
    values = _column(columns, name)
    if not _is_numeric(values) or not np.isfinite(values).all() or (values != np.round(values)).any():
        raise DataError(f"{columns.path}: column {name!r} holds other things than whole numbers, so it names no folds")
    folds = values.astype(np.int64)
    if config.split_column:
        if not np.array_equal(np.unique(folds), [0, 1]):
            raise DataError(f"{columns.path}: split column {name!r} must hold 0 (train) and 1 (test), and both")
        folds = folds - 1
    return torch.from_numpy(folds)
