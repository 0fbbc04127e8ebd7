"""``core/reference``: packed layers in plain torch. Always there, and the definition of correct."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from qcore.backends.base import Backend, Kernel, KernelRequest, Probe
from qcore.backends.plan.base import Compiled, Program, Runner, Shape
from qcore.tensor import Encoded, QTensor
from qcore.tensor.layers import Input, conv2d, encode_images, linear

__all__ = ["ReferenceBackend"]


class ReferenceBackend(Backend):
    """Runs every request, on any device that torch has, in the arithmetic of :mod:`qcore.tensor.layers`.

    The weight's codes are kept as one int8 or int16 each; they become floats for the time of a call. It is right, not
    fast: expect a packed layer here to be slower than its float twin.
    """

    name: ClassVar[str] = "reference"
    priority: ClassVar[int] = 0

    def probe(self) -> Probe:
        """Return that it is available."""
        return Probe(True, "any", details={"torch": torch.__version__, "threads": str(torch.get_num_threads())})

    def reject(self, request: KernelRequest) -> str | None:
        """Reject nothing."""
        return None

    def prepare(self, request: KernelRequest, weight: QTensor, bias: Tensor | None) -> Kernel:
        """Unpack the codes to one integer each."""
        encoded = weight.unpack()
        codes = encoded.codes.to(torch.int8 if encoded.encoding in {"int", "ternary", "symmetric"} else torch.int16)
        held = replace(encoded, codes=codes)
        how = "integer sums" if request.integer else "float sums on dequantized weights"
        return Kernel(f"{request.op}, {how}", _layer(request, held, bias), codes.numel() * codes.element_size())

    def compile(self, program: Program) -> Compiled:
        """Run the steps one by one in torch; packed layers on the kernels that they have."""

        def specialize(shape: Shape) -> Runner:
            program.shapes(shape)
            return torch.no_grad()(program)

        return specialize


def _layer(request: KernelRequest, held: Encoded, bias: Tensor | None) -> Callable[[Input], Tensor]:
    scheme, conv = request.activation, request.conv

    def call(x: Input) -> Tensor:
        weight = replace(held, codes=held.codes.to(torch.float32))
        if scheme is not None and isinstance(x, Tensor):
            x = scheme.encode(x) if conv is None else encode_images(x, scheme)
        return linear(x, weight, bias) if conv is None else conv2d(x, weight, bias, conv)

    return call
