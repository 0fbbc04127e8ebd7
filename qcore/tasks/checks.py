"""Checks that every task's data pass before anything is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qcore.errors import DataError

if TYPE_CHECKING:
    from qcore.tasks.base import TaskData

__all__ = ["check_data", "check_finite"]

_SHOWN = 5


def check_data(data: TaskData, name: str, *, can_drop: bool = True) -> None:
    """Raise DataError if ``data`` of the task ``name``, which ``can_drop`` columns, cannot be learned from."""
    _check_lengths(data, name)
    if data.inputs.ndim == 2 and data.inputs.shape[1] == 0:
        raise DataError(f"{name}: no feature column is left to learn from")
    check_finite(data.inputs, data.feature_names, data.source or name, can_drop=can_drop)
    check_finite(data.targets, _target_names(data), data.source or name, can_drop=False)
    if data.problem == "classification":
        _check_classes(data, name)


def check_finite(values: Tensor, names: tuple[str, ...], source: str, *, can_drop: bool = True) -> None:
    """Raise DataError naming the columns of ``values`` (n,) or (n, columns, ...) that hold NaN or infinity."""
    if not values.is_floating_point():
        return
    finite = torch.isfinite(values)
    if bool(finite.all()):
        return
    bad = (~finite).reshape(len(values), -1)
    drop = ", or leave columns out with --set task.drop='[\"NAME\"]'" if can_drop else ""
    raise DataError(f"NaN or infinity in {source}: {_describe(bad, names)}", f"fill in or remove these rows{drop}")


def _describe(bad: Tensor, names: tuple[str, ...]) -> str:
    columns = bad.any(dim=0).nonzero().flatten().tolist()
    shown = [
        f"{_column_name(column, names)} ({int(bad[:, column].sum())} of {len(bad)} rows, "
        f"first row {int(bad[:, column].nonzero()[0])})"
        for column in columns[:_SHOWN]
    ]
    more = f" and {len(columns) - _SHOWN} more columns" if len(columns) > _SHOWN else ""
    return ", ".join(shown) + more


def _column_name(column: int, names: tuple[str, ...]) -> str:
    if column >= len(names):
        return f"feature {column}"
    return names[column] if names[column].startswith("the ") else f"column {names[column]!r}"


def _check_lengths(data: TaskData, name: str) -> None:
    if len(data.inputs) == 0:
        raise DataError(f"{name}: the data hold no samples")
    rows = len(data.inputs)
    for label in ("targets", "groups", "folds"):
        tensor = getattr(data, label)
        shape = None if tensor is None else tuple(tensor.shape)
        if shape in (None, (rows,)) or (label == "targets" and _has_outputs(data)):
            continue
        several = f" or, of floats, ({rows}, two or more)" if label == "targets" else ""
        raise DataError(f"{name}: {label} have shape {shape}, expected ({rows},){several}")
    outputs = data.targets.shape[1] if data.targets.dim() == 2 else 0
    if data.target_names and len(data.target_names) != outputs:
        raise DataError(f"{name}: {len(data.target_names)} target names for {outputs or 'no'} outputs")


def _has_outputs(data: TaskData) -> bool:
    """Whether the targets are two or more values a sample; one value a sample is (n,), never (n, 1)."""
    targets = data.targets
    return targets.is_floating_point() and targets.dim() == 2 and targets.shape[1] > 1 and len(targets) == len(data)


def _target_names(data: TaskData) -> tuple[str, ...]:
    if data.targets.dim() == 1:
        return ("the target",)
    names = data.target_names or map(str, range(data.targets.shape[1]))
    return tuple(f"the target {name!r}" for name in names)


def _check_classes(data: TaskData, name: str) -> None:
    present = torch.unique(data.targets)
    classes = len(data.class_names)
    if len(present) < 2:
        raise DataError(
            f"{name}: the target has one class only, so there is nothing to learn", "choose another target column"
        )
    if int(present[0]) < 0 or int(present[-1]) >= classes:
        raise DataError(f"{name}: class indices run from {int(present[0])} to {int(present[-1])}, with {classes} names")
