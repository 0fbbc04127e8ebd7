"""core/reference: always there, runs everything, and is the definition of correct."""

from __future__ import annotations

import pytest
import torch

import qcore
from qcore.backends.reference import ReferenceBackend
from qcore.nn import PackedLinear
from qcore.quantizers import make_quantizer
from qcore.tensor import ENCODINGS, Encoded, QTensor
from qcore.tensor.encoded import offset_and_step, stored_range

TOKEN = make_quantizer("core/int(granularity='token')")


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def coded(encoding: str, bits: int | torch.Tensor, rows: int = 4, cols: int = 11) -> Encoded:
    generator = torch.Generator().manual_seed(0)
    widths = torch.as_tensor(bits).expand(rows).tolist()
    codes = torch.zeros(rows, cols)
    for row, width in enumerate(widths):
        step, offset = offset_and_step(encoding, width)
        low, top = stored_range(encoding, width)
        codes[row] = torch.randint(low, top + 1, (cols,), generator=generator) * step + offset
    zero = torch.ones(rows, 1) if encoding == "uint" else None
    scale = torch.rand(rows, 1, generator=generator)
    return Encoded(codes, scale, codes.shape, torch.float32, encoding, bits, zero)


def test_it_is_always_available_and_rejects_nothing() -> None:
    backend = qcore.get("backend", "core/reference")
    assert isinstance(backend, ReferenceBackend)
    assert backend.probe().available
    assert backend.probe() == backend.probe()


WIDTHS = [(encoding, bits) for encoding in ENCODINGS for bits in ((2,) if encoding == "ternary" else (1, 2, 5, 8))]


@pytest.mark.parametrize(("encoding", "bits"), WIDTHS)
def test_every_encoding_and_width_runs_exactly(encoding: str, bits: int) -> None:
    _check(coded(encoding, bits))


def test_rows_of_several_widths_run_in_their_own_order() -> None:
    _check(coded("int", torch.tensor([8, 2, 4, 2])))
    _check(coded("odd", torch.tensor([1, 3, 1, 8])))
    _check(coded("symmetric", torch.tensor([2, 1, 8, 3])))


def _check(weight: Encoded) -> None:
    from qcore.backends import find_backends
    from qcore.tensor import integer_linear

    layer = PackedLinear(QTensor.pack(weight), normal(4), TOKEN, {"quantizer": "a/b"})
    layer.prepare(find_backends("reference")[0], forced=True)
    x = normal(6, 11)
    assert torch.equal(layer(x), integer_linear(TOKEN.encode(x), weight, normal(4)))
    assert layer.choice is not None
    assert layer.choice.kernel.bound == 0


def test_the_kernel_keeps_one_or_two_bytes_a_code() -> None:
    for reference, nbytes in (("core/int(bits=4)", 55), ("core/int(bits=4, symmetric=False)", 110)):
        model = torch.nn.Linear(11, 5)
        packed = qcore.pack(qcore.quantize(model, {"*": reference}), "reference")
        assert isinstance(packed, PackedLinear)
        assert packed.choice is not None
        assert packed.choice.kernel.nbytes == nbytes
