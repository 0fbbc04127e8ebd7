from __future__ import annotations

import pytest
import torch

from qcore.quantizers import make_quantizer
from qcore.testing.inputs import activations




@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(2, 9))
def test_fake_quantized_rows_equal_those_of_the_quantizer(isa: str, bits: int, symmetric: bool) -> None:
    quantizer = make_quantizer(f"core/int(bits={bits}, symmetric={symmetric}, granularity='token')").eval()
    inputs = [x for _, x in activations(torch.float32) if x.dim() == 2]
    inputs += [torch.randn(3, 1001), torch.randn(2, 70_000), torch.full((2, 9), 3e38) * torch.tensor([[1.0], [-1.0]])]
    for x in inputs:
        y = fake_quantize(x, bits, symmetric)
        assert y is not None
        assert torch.equal(y, quantizer(x))


def test_nan_and_infinity_are_told(isa: str) -> None:
    for bad in (torch.nan, torch.inf, -torch.inf):
        for cols in (5, 64, 40_000):
            for place in (0, cols - 1):
                x = torch.randn(2, cols)
                x[1, place] = bad
                assert fake_quantize(x, 4, True) is None
                assert fake_quantize(x, 4, False) is None


def test_the_op_passes_opcheck() -> None:
    torch.library.opcheck(fake_quantize_op, (torch.randn(3, 20), 4, True))
