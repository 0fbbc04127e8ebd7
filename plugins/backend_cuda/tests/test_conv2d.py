from __future__ import annotations

import pytest
import torch

from qcore.errors import UsageError
from qcore.tensor import ActivationScheme, QTensor
from qcore.tensor.arithmetic import Conv2dShape
from qcore.testing.backend_checks import exact
from qcore.testing.backend_problems import TOKENS, WALKS, coded_weight, problem
from qcore.testing.inputs import normal
from qcore_backend_cuda.backend import CudaBackend
from qcore_backend_cuda.conv2d import conv2d_weights, op_arguments
from qcore_backend_cuda.ops import conv2d_op


@pytest.mark.parametrize("affine", [False, True])
def test_rows_of_several_widths_and_groups_of_channels(affine: bool, device: torch.device) -> None:
    bits = torch.tensor([2, 8, 4, 2, 8, 8])
    walk = Conv2dShape((1, 2), (2, 1), (1, 1), 2)
    given = problem(
        coded_weight("int", bits, (6, 2, 3, 3), "row"),
        normal((3, 4, 6, 5), torch.float32),
        ActivationScheme(8, not affine),
        conv=walk,
    ).to(str(device))
    kernel = CudaBackend().prepare(given.request, QTensor.pack(given.weight), given.bias)
    assert torch.equal(kernel.call(given.x), exact(given))


def test_coded_images_and_padding_of_every_encoding(device: torch.device) -> None:
    weight = coded_weight("int", 4, (4, 3, 3, 3), "row")
    for encoding, bits in (("int", 8), ("uint", 8), ("uint", 4), ("odd", 8), ("ternary", 2)):
        x = coded_weight(encoding, bits, (2, 3, 5, 6), "row")
        given = problem(weight, x, None, conv=Conv2dShape((1, 1), (1, 1))).to(str(device))
        kernel = CudaBackend().prepare(given.request, QTensor.pack(given.weight), given.bias)
        assert torch.equal(kernel.call(given.x), exact(given)), encoding


def test_torch_library_finds_no_fault_with_the_op(device: torch.device) -> None:
    for shape, walk in WALKS[1], WALKS[3]:
        x = normal((2, 3, 7, 9), torch.float32)
        given = problem(coded_weight("int", 4, shape, "row"), x, TOKENS, conv=walk).to(str(device))
        weights = conv2d_weights(given.request, QTensor.pack(given.weight), given.bias)
        torch.library.opcheck(conv2d_op, (given.x, *op_arguments(given.request, weights)))


def test_images_that_do_not_fit_are_refused(device: torch.device) -> None:
    given = problem(
        coded_weight("int", 4, (4, 3, 3, 3), "row"), normal((2, 3, 5, 6), torch.float32), TOKENS, conv=Conv2dShape()
    ).to(str(device))
    kernel = CudaBackend().prepare(given.request, QTensor.pack(given.weight), given.bias)
    with pytest.raises(UsageError, match="does not fit"):
        kernel.call(torch.zeros(1, 3, 2, 6, device=device))
    with pytest.raises(UsageError, match="height, width"):
        kernel.call(torch.zeros(1, 4, 5, 6, device=device))
