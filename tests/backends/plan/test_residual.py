"""Sums of two values."""

from __future__ import annotations

import pytest
import torch

from qcore.backends.plan import Add, Value
from qcore.errors import UsageError


def test_a_sum_takes_two_values_of_one_shape() -> None:
    step = Add((Value(0), Value(1)), Value(2), "block")
    assert step.infer((3, 4), (3, 4)) == (3, 4)
    with pytest.raises(UsageError, match=r"block \(add\) takes two values of one shape, \(rows, 3, 4\) first, not"):
        step.infer((3, 4), (4, 3))
    with pytest.raises(UsageError, match="float32 values"):
        step.widens(False, True)


def test_a_relu_comes_after_the_sum() -> None:
    a, b = torch.tensor([[1.0, -3.0, torch.nan]]), torch.tensor([[-2.0, 4.0, 1.0]])
    step = Add((Value(0), Value(1)), Value(2), "block", relu=True)
    assert step.title == "add + relu" and step.bound == 0
    assert torch.equal(step.apply(a, b).nan_to_num(7), torch.tensor([[0.0, 1.0, 7.0]]))
