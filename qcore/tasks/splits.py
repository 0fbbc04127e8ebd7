"""Folds: disjoint training, validation and test parts. The reported test part never chooses anything."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qcore.errors import DataError, UsageError
from qcore.tasks.base import Task, TaskData

__all__ = ["DEFAULT_FOLDS", "Fold", "make_folds"]

DEFAULT_FOLDS = 5

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold: sorted (n,) int64 indices of samples, disjoint.

    Attributes:
        index: 0-based number of the fold.
        train: what is learned from.
        validation: what early stopping looks at; empty if no validation part was asked for.
        test: what is reported.
    """

    index: int
    train: Tensor
    validation: Tensor
    test: Tensor


def make_folds(task: Task, folds: int | None = None, validation: float = 0.15, seed: int = 0) -> list[Fold]:
    """Split the task's data; the same arguments always give the same folds.

    - The data's own folds, where they have some: fold k is tested on the k-th smallest label; negative labels are
      never tested.
    - else, with groups: no group spans folds, and classes are spread as evenly as the groups allow;
    - else classes are spread evenly (classification), or samples are drawn at random (regression).

    The validation part is drawn from what is left after the test part, by the second or third rule.

    Args:
        task: whose data.
        folds: how many; None means the data's own, or 5.
        validation: share of the non-test samples, 0 <= validation < 1.
        seed: of the draw.

    Raises:
        UsageError: impossible arguments, or a number of folds other than the data's own.
        DataError: too few samples or groups, a class that a part of a fold would lack, or a group that spans the
            data's own folds.
    """
    if folds is not None and folds < 2:
        raise UsageError(f"cannot make {folds} fold(s): at least 2 are needed")
    if not 0.0 <= validation < 1.0:
        raise UsageError(f"validation must be a share of at least 0 and below 1, got {validation}")
    data = task.data
    tests = _drawn_tests(data, folds or DEFAULT_FOLDS, seed) if data.folds is None else _own_tests(data, folds)
    return [_make_fold(data, index, test, validation, seed) for index, test in enumerate(tests)]


def _make_fold(data: TaskData, index: int, test: Index, validation: float, seed: int) -> Fold:
    rest = _purged(data, np.setdiff1d(np.arange(len(data)), test), test)
    if len(rest) < 2:
        raise DataError(f"fold {index} leaves {len(rest)} samples to learn from")
    _check_train_classes(data, rest, f"the training part of fold {index}")
    held_out = _hold_out(data, rest, validation, np.random.default_rng([seed, index])) if validation else rest[:0]
    train = np.setdiff1d(rest, held_out)
    return Fold(index, *(torch.from_numpy(np.sort(part).astype(np.int64)) for part in (train, held_out, test)))


def _purged(data: TaskData, rest: Index, test: Index) -> Index:
    """Leave out of ``rest`` the samples whose group is tested; folds drawn here have none such."""
    if data.groups is None:
        return rest
    groups = data.groups.numpy()
    return rest[~np.isin(groups[rest], groups[test])]


# The test parts.


def _own_tests(data: TaskData, folds: int | None) -> list[Index]:
    assert data.folds is not None
    labels = data.folds.numpy()
    own = np.unique(labels[labels >= 0])
    if len(own) == 0 or (len(own) == 1 and (labels >= 0).all()):
        raise DataError("the column with the data's own folds holds one value only", "at least two folds are needed")
    if folds is not None and folds != len(own):
        raise UsageError(
            f"the data have {len(own)} folds of their own, so {folds} cannot be made",
            "leave out the number of folds, or the column with the data's folds",
        )
    if data.groups is not None and data.spanning_groups == "error":
        _check_groups_stay(data.groups, data.folds)
    return [np.flatnonzero(labels == label) for label in own]


def _check_groups_stay(labels: Tensor, folds: Tensor) -> None:
    pairs = torch.unique(torch.stack([labels, folds]), dim=1)
    groups, counts = torch.unique(pairs[0], return_counts=True)
    spanning = groups[counts > 1]
    if len(spanning):
        rows = (labels == spanning[0]).nonzero().flatten().tolist()[:2]
        raise DataError(
            f"{len(spanning)} of {len(groups)} groups span the data's own folds, which leaks test samples into training"
            f" (that of rows {', '.join(map(str, rows))}, for one)",
            "keep them out of the training parts with --set task.spanning_groups=purge, or leave the folds column out: "
            "group-aware folds are then made",
        )


def _drawn_tests(data: TaskData, folds: int, seed: int) -> list[Index]:
    if len(data) < folds:
        raise DataError(f"{len(data)} samples are fewer than {folds} folds", "ask for fewer folds")
    if data.groups is not None:
        return list(_group_parts(data, np.arange(len(data)), folds, seed))
    if data.problem == "regression":
        order = np.random.default_rng(seed).permutation(len(data))
        return [np.sort(part) for part in np.array_split(order, folds)]
    return _stratified_tests(data, folds, seed)


def _stratified_tests(data: TaskData, folds: int, seed: int) -> list[Index]:
    from sklearn.model_selection import StratifiedKFold

    counts = torch.bincount(data.targets, minlength=len(data.class_names))
    scarce = int(torch.where(counts == 0, counts.max() + 1, counts).argmin())
    if counts[scarce] < folds:
        raise DataError(
            f"class {data.class_names[scarce]!r} has {int(counts[scarce])} samples, fewer than {folds} folds: "
            "some folds would lack it",
            "ask for fewer folds, add samples, or --set task.problem=regression if the target is a quantity",
        )
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return [test for _, test in splitter.split(np.zeros(len(data)), data.targets.numpy())]


def _group_parts(data: TaskData, rows: Index, parts: int, seed: int) -> Iterator[Index]:
    """Cut ``rows`` into ``parts`` that share no group, and yield each."""
    from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

    assert data.groups is not None
    groups = data.groups.numpy()[rows]
    count = len(np.unique(groups))
    if count < parts:
        raise DataError(f"{count} groups are fewer than {parts} folds, and no group may span folds", "make fewer folds")
    kind = GroupKFold if data.problem == "regression" else StratifiedGroupKFold
    splitter = kind(parts, shuffle=True, random_state=seed)
    for _, part in _quiet_split(splitter, data.targets.numpy()[rows], groups):
        if len(part) == 0:
            raise DataError(f"the groups are too uneven for {parts} folds: one would be empty", "make fewer folds")
        yield rows[part]


def _quiet_split(splitter: object, targets: NDArray[np.generic], groups: Index) -> list[tuple[Index, Index]]:
    with warnings.catch_warnings():  # a scarce class is judged here, by what the training part lacks
        warnings.simplefilter("ignore", UserWarning)
        try:
            return list(splitter.split(np.zeros(len(targets)), targets, groups))  # type: ignore[attr-defined]
        except ValueError as error:
            raise DataError(f"these groups and classes cannot be split: {error}") from error


# The validation part.


def _hold_out(data: TaskData, rest: Index, share: float, generator: np.random.Generator) -> Index:
    if data.groups is not None:
        return _hold_out_groups(data, rest, share, generator)
    if data.problem == "regression":
        return _draw(rest, share, generator)
    targets = data.targets.numpy()[rest]
    drawn = [_draw(rest[targets == label], share, generator) for label in np.unique(targets)]
    held_out = np.concatenate(drawn)
    return held_out if len(held_out) else _draw_any(rest, targets, generator)


def _draw(rows: Index, share: float, generator: np.random.Generator) -> Index:
    """Draw ``share`` of the rows, but leave at least one."""
    count = min(round(share * len(rows)), len(rows) - 1)
    return generator.permutation(rows)[:count]


def _draw_any(rest: Index, targets: Index, generator: np.random.Generator) -> Index:
    """Draw one row of the largest class: so few samples are left that every class's share rounds to none."""
    return _draw(rest[targets == np.bincount(targets).argmax()], 0.5, generator)[:1]


def _hold_out_groups(data: TaskData, rest: Index, share: float, generator: np.random.Generator) -> Index:
    """Return the first group-aware part of about ``share`` that leaves every class to the training part."""
    assert data.groups is not None
    parts = min(max(round(1.0 / share), 2), len(torch.unique(data.groups[torch.from_numpy(rest)])))
    if parts < 2:
        raise DataError("one group only is left for training, so no validation part can be made", "set validation to 0")
    targets = data.targets.numpy()
    for part in _group_parts(data, rest, parts, int(generator.integers(2**31))):
        left = np.setdiff1d(rest, part)
        if data.problem == "regression" or len(np.unique(targets[left])) == len(np.unique(targets[rest])):
            return part
    raise DataError(
        "every group-aware validation part takes all samples of some class from the training part",
        "set validation to 0, or merge small classes",
    )


def _check_train_classes(data: TaskData, rows: Index, part: str) -> None:
    if data.problem == "regression":
        return
    wanted, present = np.unique(data.targets.numpy()), np.unique(data.targets.numpy()[rows])
    missing = np.setdiff1d(wanted, present)
    if len(missing):
        names = ", ".join(repr(data.class_names[label]) for label in missing[:5])
        raise DataError(f"{part} lacks {len(missing)} of {len(wanted)} classes: {names}", "make fewer folds, or others")
