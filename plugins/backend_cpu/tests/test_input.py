from __future__ import annotations

import pytest
import torch

from qcore.errors import UsageError
from qcore_backend_cpu.testing import TOKENS, kernels, make_weight


def test_any_memory_layout_and_dtype_is_taken(isa: str) -> None:
    ours, reference = kernels(make_weight("int", 4, (19, 48)), TOKENS)
    x = torch.randn(6, 48)
    held = torch.empty(6 * 48 + 1)[1:].view(6, 48).copy_(x)  # four bytes off any alignment
    for given in (x.t().contiguous().t(), torch.randn(6, 96)[:, ::2], held, x.double(), x.half(), x.bfloat16(), x[:0]):
        assert torch.equal(ours.call(given), reference.call(given))
    for shape in ((48,), (2, 3, 48), (0, 48), (2, 0, 48), (1, 1, 1, 48)):
        given = torch.randn(shape)
        assert torch.equal(ours.call(given), reference.call(given))


def test_an_input_with_a_gradient_is_taken(isa: str) -> None:
    ours, reference = kernels(make_weight("int", 4, (19, 48)), TOKENS)
    x = torch.randn(6, 48, requires_grad=True)
    assert torch.equal(ours.call(x), reference.call(x))


def test_a_weight_only_layer_passes_the_gradient_to_its_input(isa: str) -> None:
    weight = make_weight("int", 4, (19, 48))
    ours, _ = kernels(weight, None)
    x = torch.randn(6, 48, requires_grad=True)
    ours.call(x).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, weight.decode().sum(dim=0).expand(6, 48), atol=1e-4)


@pytest.mark.parametrize(
    "x",
    [torch.ones(3, 47), torch.ones(3, 49), torch.tensor(1.0), torch.ones(3, 48, dtype=torch.int32)],
    ids=["narrow", "wide", "scalar", "integers"],
)
def test_an_input_of_the_wrong_shape_or_dtype_is_a_usage_error(isa: str, x: torch.Tensor) -> None:
    for scheme in (TOKENS, None):
        ours, _ = kernels(make_weight("int", 4, (19, 48)), scheme)
        with pytest.raises(UsageError):
            ours.call(x)


def test_codes_of_the_wrong_shape_are_a_usage_error(isa: str) -> None:
    ours, _ = kernels(make_weight("int", 4, (19, 48)), None, coded=True)
    with pytest.raises(UsageError):
        ours.call(make_weight("int", 8, (3, 47)))
    with pytest.raises(UsageError):
        ours.call(torch.randn(3, 48))
