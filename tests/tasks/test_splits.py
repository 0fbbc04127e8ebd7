from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcore.errors import DataError, UsageError
from qcore.tasks import Digits, Fold, Task, TaskData, make_folds
from qcore.tasks.base import Task as BaseTask

Make = Callable[..., Task]


def assert_partition(folds: list[Fold], n: int) -> None:
    for fold in folds:
        parts = torch.cat([fold.train, fold.validation, fold.test])
        assert sorted(parts.tolist()) == list(range(n))
    assert sorted(torch.cat([fold.test for fold in folds]).tolist()) == list(range(n))


def test_the_parts_are_disjoint_and_every_sample_is_tested_once(labelled: Make) -> None:
    assert_partition(make_folds(labelled([0, 1, 2] * 20)), 60)


def test_every_part_of_a_stratified_fold_keeps_the_class_shares() -> None:
    task = Digits()
    for fold in make_folds(task):
        for part, share in ((fold.train, 0.68), (fold.validation, 0.12), (fold.test, 0.2)):
            counts = torch.bincount(task.data.targets[part], minlength=10)
            expected = torch.bincount(task.data.targets, minlength=10) * share
            assert (counts - expected).abs().max() <= 2


def test_the_same_seed_gives_the_same_folds_and_another_gives_others(labelled: Make) -> None:
    task = labelled([0, 1] * 50)
    first, again, other = make_folds(task, seed=3), make_folds(task, seed=3), make_folds(task, seed=4)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.test, b.test) and torch.equal(a.validation, b.validation)
    assert not torch.equal(first[0].test, other[0].test)


def test_folds_neither_read_nor_change_the_global_random_state(labelled: Make) -> None:
    import numpy as np

    before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()
    make_folds(labelled([0, 1] * 50, groups=list(range(100))))
    assert (np.random.get_state()[1] == before).all()
    assert torch.equal(torch.get_rng_state(), torch_before)


def test_no_group_spans_any_two_parts(labelled: Make) -> None:
    groups = [index // 4 for index in range(120)]
    task = labelled([index % 3 for index in range(120)], groups=groups)
    folds = make_folds(task)
    assert_partition(folds, 120)
    for fold in folds:
        parts = [{groups[i] for i in part.tolist()} for part in (fold.train, fold.validation, fold.test)]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        assert len(fold.validation) > 0


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_groups_of_any_size_never_leak_or_are_refused(data: st.DataObject) -> None:
    n = data.draw(st.integers(12, 60))
    groups = data.draw(st.lists(st.integers(0, 9), min_size=n, max_size=n))
    targets = data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))

    class Drawn(BaseTask):
        def load(self) -> TaskData:
            return TaskData(
                inputs=torch.zeros(n, 1),
                targets=torch.tensor(targets),
                groups=torch.tensor(groups),
                class_names=("a", "b"),
            )

    try:
        folds = make_folds(Drawn(), folds=3)
    except DataError:
        return
    assert_partition(folds, n)
    for fold in folds:
        parts = [{groups[i] for i in part.tolist()} for part in (fold.train, fold.validation, fold.test)]
        assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
        assert {targets[i] for i in fold.train.tolist()} == set(targets)


def test_regression_folds_are_balanced_and_may_have_groups(measured: Make) -> None:
    assert [len(fold.test) for fold in make_folds(measured([float(i) for i in range(22)]))] == [5, 5, 4, 4, 4]
    groups = [index // 2 for index in range(40)]
    folds = make_folds(measured([float(i) for i in range(40)], groups=groups))
    assert_partition(folds, 40)
    for fold in folds:
        assert not {groups[i] for i in fold.train.tolist()} & {groups[i] for i in fold.validation.tolist()}


def test_the_datas_own_folds_are_used_whatever_their_labels(labelled: Make) -> None:
    own = [7, 3, 9] * 10
    folds = make_folds(labelled([0, 1] * 15, folds=own))
    assert [fold.index for fold in folds] == [0, 1, 2]
    assert [{own[i] for i in fold.test.tolist()} for fold in folds] == [{3}, {7}, {9}]
    assert_partition(folds, 30)


def test_samples_with_a_negative_fold_are_never_tested(labelled: Make) -> None:
    own = [-1, -1, 0] * 10
    (fold,) = make_folds(labelled([0, 1] * 15, folds=own))
    assert [own[i] for i in fold.test.tolist()] == [0] * 10
    learned = {own[i] for part in (fold.train, fold.validation) for i in part.tolist()}
    assert learned == {-1}


def test_another_number_than_the_datas_own_folds_is_refused(labelled: Make) -> None:
    task = labelled([0, 1] * 15, folds=[0, 1, 2] * 10)
    assert len(make_folds(task, folds=3)) == 3
    with pytest.raises(UsageError, match="3 folds of their own"):
        make_folds(task, folds=5)


def test_a_group_that_spans_the_datas_own_folds_is_an_error(labelled: Make) -> None:
    groups = [0, 0, 1, 1, 2, 2, 3, 3]
    with pytest.raises(DataError, match=r"1 of 4 groups span.*rows 2, 3") as caught:
        make_folds(labelled([0, 1] * 4, groups=groups, folds=[0, 0, 0, 1, 1, 1, 1, 1]))
    assert "spanning_groups=purge" in str(caught.value)


def test_purging_keeps_the_test_part_and_takes_its_groups_out_of_training(labelled: Make) -> None:
    groups = [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]
    task = labelled([0, 1] * 5, groups=groups, folds=[0] * 5 + [1] * 5, spanning_groups="purge")
    first, second = make_folds(task, validation=0.0)
    assert first.test.tolist() == [0, 1, 2, 3, 4] and first.train.tolist() == [6, 7, 8, 9]
    assert second.test.tolist() == [5, 6, 7, 8, 9] and second.train.tolist() == [0, 1, 2, 3]


def test_no_validation_part_can_be_asked_for(labelled: Make) -> None:
    folds = make_folds(labelled([0, 1] * 20), validation=0.0)
    assert all(len(fold.validation) == 0 for fold in folds)
    assert_partition(folds, 40)


def test_a_small_set_still_gets_a_validation_part_and_keeps_all_classes(labelled: Make) -> None:
    targets = [0, 1, 2] * 3
    for fold in make_folds(labelled(targets), folds=3):
        assert len(fold.validation) == 1
        assert {targets[i] for i in fold.train.tolist()} == {0, 1, 2}


@pytest.mark.parametrize(("folds", "validation"), [(1, 0.15), (0, 0.15), (5, 1.0), (5, -0.1)])
def test_impossible_arguments_are_refused(labelled: Make, folds: int, validation: float) -> None:
    with pytest.raises(UsageError):
        make_folds(labelled([0, 1] * 20), folds=folds, validation=validation)


def test_fewer_samples_than_folds_is_an_error(measured: Make, labelled: Make) -> None:
    with pytest.raises(DataError, match="3 samples are fewer than 5 folds"):
        make_folds(measured([0.1, 0.2, 0.3]))
    with pytest.raises(DataError, match="3 samples are fewer than 5 folds"):
        make_folds(labelled([0, 1, 1]))


def test_a_class_too_scarce_for_the_folds_is_named(labelled: Make) -> None:
    with pytest.raises(DataError, match="class 'class 1' has 2 samples, fewer than 5 folds"):
        make_folds(labelled([0] * 20 + [1] * 2))


def test_a_class_that_a_training_part_would_lack_is_named(labelled: Make) -> None:
    with pytest.raises(DataError, match="training part of fold 1 lacks 1 of 3 classes: 'class 2'"):
        make_folds(labelled([0, 1] * 6 + [2, 2], folds=[0] * 6 + [1] * 8))
    with pytest.raises(DataError, match="lacks 1 of 2 classes"):
        make_folds(labelled([0] * 20 + [1] * 5, groups=[*range(20), *[20] * 5]))


def test_fewer_groups_than_folds_is_an_error(labelled: Make) -> None:
    with pytest.raises(DataError, match="4 groups are fewer than 5 folds"):
        make_folds(labelled([0, 1] * 20, groups=[0, 1, 2, 3] * 10))


def test_one_own_fold_for_all_samples_is_an_error(labelled: Make) -> None:
    with pytest.raises(DataError, match="one value only"):
        make_folds(labelled([0, 1] * 10, folds=[1] * 20))
