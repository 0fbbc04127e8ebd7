"""Fake quantization for training, in one pass over memory after the range."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qcore_backend_cpu.ops import fake_quantize_op, run_fake_quantize

__all__ = ["FakeQuantize", "fake_quantize"]

FakeQuantize = Callable[[Tensor, int, bool], Tensor | None]


def fake_quantize(x: Tensor, bits: int, symmetric: bool) -> Tensor | None:
    """Return ``x`` (slices, n) with each slice rounded over its own range, no gradient.

    The result is what :mod:`qcore.tensor.integer` makes of it, bit for bit; None where ``x`` is no float32 matrix on
    the CPU, or holds NaN or infinity.
    """
    if x.dtype is not torch.float32 or x.dim() != 2 or x.device.type != "cpu" or not 2 <= bits <= 8:
        return None
    if torch.compiler.is_compiling() or type(x) not in (Tensor, torch.nn.Parameter):
        compiled: Tensor = fake_quantize_op(x, bits, symmetric)
        return compiled
    return run_fake_quantize(x, bits, symmetric)
