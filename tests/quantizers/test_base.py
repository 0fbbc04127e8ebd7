"""What every quantizer inherits."""

from __future__ import annotations

import pytest
import torch

from qcore.errors import QuantizationError
from qcore.quantizers import Quantizer, check_finite, straight_through
from qcore.tensor import Encoded


class Halves(Quantizer):
    """Rounds to multiples of one half: the least that a quantizer must say."""

    def encode(self, x: torch.Tensor) -> Encoded:
        check_finite(x, self.tensor_name)
        codes = (x.detach().float() * 2).round().clamp(-128, 127).reshape(1, -1)
        return Encoded(codes, torch.full((1, 1), 0.5), x.shape, x.dtype, "int", 8)

    def bits(self) -> torch.Tensor:
        return torch.tensor(8.0)


def test_a_quantizer_that_only_encodes_gets_forward_and_quantize() -> None:
    x = torch.tensor([[0.2, 0.3], [-0.9, 1.0]], requires_grad=True)
    quantizer = Halves()
    y = quantizer(x)
    assert y.tolist() == [[0, 0.5], [-1, 1]]
    assert torch.equal(quantizer.quantize(x).dequantize(), y)
    (y * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[1, 2], [3, 4]]
    assert not quantizer.needs_calibration
    assert quantizer.scheme() is None
    quantizer.initialize(x)


def test_straight_through_returns_exactly_what_it_is_given() -> None:
    x = torch.tensor([1e8, 0.1], requires_grad=True)
    quantized = torch.tensor([0.3, 0.7])  # x + (quantized - x) would lose these digits
    y = straight_through(x, quantized)
    assert torch.equal(y.detach(), quantized)
    y.backward(torch.tensor([2.0, 3.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [2, 3]


def test_straight_through_masks_the_gradient() -> None:
    x = torch.zeros(3, requires_grad=True)
    straight_through(x, torch.ones(3), torch.tensor([1.0, 0.0, 0.5])).backward(torch.tensor([2.0, 3.0, 4.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [2, 0, 2]


def test_straight_through_needs_no_graph_where_there_is_none() -> None:
    x = torch.zeros(3, requires_grad=True)
    with torch.no_grad():
        assert not straight_through(x, torch.ones(3)).requires_grad
    assert not straight_through(x.detach(), torch.ones(3)).requires_grad


def test_straight_through_never_hands_back_the_input_itself() -> None:
    x = torch.ones(3)
    straight_through(x, x).add_(1)
    assert x.tolist() == [1, 1, 1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_check_finite_counts_and_names(bad: float) -> None:
    with pytest.raises(QuantizationError, match="head.weight holds 2 values of 4") as caught:
        check_finite(torch.tensor([1.0, bad, bad, 0.0]), "head.weight")
    assert caught.value.exit_code == 5


def test_check_finite_accepts_what_is_finite() -> None:
    largest = torch.finfo(torch.float32).max
    for x in (torch.tensor([largest, -largest]), torch.empty(0), torch.empty(3, 0), torch.empty(3, device="meta")):
        check_finite(x, "x")


def test_a_quantizer_prints_its_options() -> None:
    from qcore.quantizers import make_quantizer

    assert "bits=4" in repr(make_quantizer("core/int(bits=4)"))
