"""Layers for tests and benchmarks: random ones, with what the reference computes."""

from __future__ import annotations

import torch
from torch import Tensor

from qcore.backends import Kernel, KernelRequest
from qcore.backends.reference import ReferenceBackend
from qcore.tensor import ActivationScheme, Encoded, QTensor
from qcore.tensor.arithmetic import Conv2dShape
from qcore.tensor.encoded import offset_and_step, stored_range
from qcore_backend_cpu.backend import CpuBackend

__all__ = ["TOKENS", "WIDTHS", "kernels", "make_request", "make_weight", "same"]

TOKENS = ActivationScheme(8)
WIDTHS = [
    ("ternary", 2),
    ("odd", 1),
    *(("int", b) for b in range(2, 9)),
    *(("uint", b) for b in range(1, 9)),
    *(("symmetric", b) for b in (1, 2, 3, 8)),
]


def make_weight(
    encoding: str,
    bits: int | list[int],
    shape: tuple[int, ...],
    *,
    scales: str = "row",
    group_size: int | None = None,
    seed: int = 0,
    fill: int | None = None,
) -> Encoded:
    """Return random codes (all the ``fill``-th largest, if given) with random scales and, for uint, zero points."""
    drawn = torch.Generator().manual_seed(seed)
    rows, cols = shape[0], int(torch.Size(shape[1:]).numel())
    widths = torch.tensor([bits] * rows if isinstance(bits, int) else bits)[:rows]
    codes = torch.empty(rows, cols)
    for row, width in enumerate(widths.tolist()):
        low, top = stored_range(encoding, width)
        stored = torch.full((cols,), top if fill else low)
        if fill is None:
            stored = torch.randint(low, top + 1, (cols,), generator=drawn)
        step, offset = offset_and_step(encoding, width)
        codes[row] = stored.float() * step + offset
    groups = 1 if group_size is None else -(-cols // group_size)
    scale = 0.01 + torch.rand(1 if scales == "tensor" else rows, groups, generator=drawn)
    zero = None
    if encoding == "uint":
        zero = torch.randint(0, 1 << int(widths.min()), scale.shape, generator=drawn).float()
    every = bits if isinstance(bits, int) else widths
    return Encoded(codes, scale, torch.Size(shape), torch.float32, encoding, every, zero, group_size)


def make_request(
    weight: Encoded, scheme: ActivationScheme | None, *, coded: bool = False, conv: Conv2dShape | None = None
) -> KernelRequest:
    """Return what a layer of ``weight`` asks of a backend."""
    rows, groups = weight.scale.shape
    return KernelRequest(
        op="linear" if conv is None else "conv2d",
        encoding=weight.encoding,
        bits=tuple(sorted({block.bits for block in QTensor.pack(weight).blocks})),
        scales="group" if groups > 1 else "row" if rows > 1 else "tensor",
        group_size=weight.group_size,
        zero_point=weight.zero_point is not None,
        activation=scheme,
        coded_input=coded,
        weight_shape=weight.shape,
        conv=conv,
        device=torch.device("cpu"),
        dtype=weight.dtype,
    )


def kernels(
    weight: Encoded,
    scheme: ActivationScheme | None,
    *,
    bias: Tensor | None = None,
    coded: bool = False,
    conv: Conv2dShape | None = None,
) -> tuple[Kernel, Kernel]:
    """Return our kernel and the reference's."""
    request, packed = make_request(weight, scheme, coded=coded, conv=conv), QTensor.pack(weight)
    assert CpuBackend().reject(request) is None
    return CpuBackend().prepare(request, packed, bias), ReferenceBackend().prepare(request, packed, bias)


def same(a: Tensor, b: Tensor) -> bool:
    """Return whether all numbers are equal; NaN equals NaN."""
    return (
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.equal(a.isnan(), b.isnan())
        and torch.equal(a.nan_to_num(), b.nan_to_num())
    )
