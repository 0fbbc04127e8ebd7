"""Checks that wait for each other: what happens on a device whose numbers are dear to look at."""

import pytest
import torch

from qcore.errors import QuantizationError
from qcore.quantizers import base, check_finite, check_later, checks_together


class OnDevice:
    """A tensor that says that it is on a GPU."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor, self.device, self.is_meta = tensor, torch.device("cuda"), False

    def numel(self) -> int:
        return self.tensor.numel()

    def detach(self) -> torch.Tensor:
        return self.tensor


def test_nothing_waits_on_a_cpu():
    with checks_together(), pytest.raises(QuantizationError, match="first"):
        check_finite(torch.tensor([torch.nan]), "first")


def test_a_bad_tensor_is_named_when_all_are_looked_at():
    with checks_together() as check:
        check_finite(OnDevice(torch.ones(3)), "good")
        check_finite(OnDevice(torch.tensor([1.0, torch.inf])), "bad")
        with pytest.raises(QuantizationError, match=r"^bad holds"):
            check()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_every_bad_value_is_seen(value):
    with checks_together() as check:
        check_finite(OnDevice(torch.tensor([0.0, value, 1.0])), "x")
        with pytest.raises(QuantizationError):
            check()


def test_good_tensors_pass_and_are_looked_at_once():
    with checks_together() as check:
        check_finite(OnDevice(torch.ones(3)), "good")
        check()
        check()


def test_outside_nothing_waits():
    with checks_together():
        pass
    assert base._waiting.get() is None
    with pytest.raises(QuantizationError, match="x holds 1 values of 1"):
        check_finite(OnDevice(torch.tensor([torch.nan])), "x")


class FlagOnDevice(torch.Tensor):
    """A number that says that it is on a GPU."""

    device = torch.device("cuda")


@pytest.mark.parametrize("shape", [(), (1,)])
def test_what_a_kernel_found_is_looked_at_with_the_rest(shape):
    with checks_together() as check:
        assert check_later(torch.zeros(shape, dtype=torch.int32).as_subclass(FlagOnDevice), "good")
        check()
        check_finite(OnDevice(torch.ones(3)), "large")
        assert check_later(torch.ones(shape, dtype=torch.int32).as_subclass(FlagOnDevice), "bad")
        with pytest.raises(QuantizationError, match=r"^bad holds"):
            check()


def test_a_kernel_looks_for_itself_where_nothing_waits():
    bad = torch.ones(1, dtype=torch.int32)
    assert not check_later(bad.as_subclass(FlagOnDevice), "x")
    with checks_together():
        assert not check_later(bad, "x")
