"""Checks on tasks: data that can be trained on and split."""

from __future__ import annotations

import torch

from qcore.errors import DataError
from qcore.tasks import Task, TaskData, make_folds
from qcore.testing.cases import SkipCheck, expect
from qcore.testing.subjects import Offer


def load(offer: Offer) -> tuple[Task, TaskData]:
    """Return the task and its data, or skip the check where these are not at hand."""
    needs = getattr(offer.spec, "needs", None)
    if needs:
        raise SkipCheck(f"it needs {needs}")
    task: Task = offer.make()
    try:
        return task, task.data
    except DataError as error:
        raise SkipCheck(f"no data: {error.message}") from error


def check_data_are_whole(offer: Offer) -> None:
    """Networks rely on it: float32 inputs, int64 or float32 targets, one row a sample, and a name for every feature."""
    _, data = load(offer)
    stored = (torch.float32, torch.uint8) if data.inputs.dim() == 4 else (torch.float32,)
    expect(data.inputs.dtype in stored, f"inputs are {data.inputs.dtype}")
    expect(data.targets.dtype in (torch.int64, torch.float32), f"targets are {data.targets.dtype}")
    several = data.targets.is_floating_point() and data.targets.dim() == 2
    shape = data.targets.shape[: 1 + several]
    expect(shape == (len(data.inputs),) + shape[1:], f"targets have shape {tuple(data.targets.shape)}")
    if several:
        expect(len(data.target_names) == shape[1], f"{len(data.target_names)} names of targets for {shape[1]} outputs")
    if data.inputs.dim() == 2:
        expect(len(data.feature_names) == data.inputs.shape[1], f"{len(data.feature_names)} names of features")
    expect(data.source.strip(), "it does not say where the data come from")


def check_data_do_not_change(offer: Offer) -> None:
    """Runs are compared by the digest of their data: loading them again gives the same."""
    _, data = load(offer)
    expect(load(offer)[1].digest == data.digest, "loading again gives other data")


def check_problem_is_its_specs(offer: Offer) -> None:
    """Listings tell the truth: the problem is the one that the spec names."""
    task, _ = load(offer)
    expect(task.problem in getattr(offer.spec, "problem", task.problem), f"it is a {task.problem}")


def check_folds_are_disjoint(offer: Offer) -> None:
    """Nothing leaks: train, validation and test of a fold share no sample and no group, and none is empty."""
    task, data = load(offer)
    for fold in make_folds(task, 3 if data.folds is None else None):
        parts = [set(part.tolist()) for part in (fold.train, fold.validation, fold.test)]
        expect(all(parts), f"fold {fold.index} has an empty part")
        expect(sum(map(len, parts)) == len(set.union(*parts)), f"the parts of fold {fold.index} share samples")
        if data.groups is not None:
            groups = [set(data.groups[part].tolist()) for part in (fold.train, fold.validation, fold.test)]
            expect(sum(map(len, groups)) == len(set.union(*groups)), f"the parts of fold {fold.index} share groups")
