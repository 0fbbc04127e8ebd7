"""The kernels as ``torch.library`` ops, through which ``torch.compile`` and ``torch.export`` pass.

``qcore_cuda::linear(x, parts, facts, numbers)``: a packed linear layer on float inputs. Parts, facts and numbers are
the prepared weight and the scheme of the input, as plain data: see :class:`qcore_backend_cuda.weights.PackedWeight`.
Eager layers do not come this way: an op's dispatch takes longer than a small layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qcore.errors import UsageError
from qcore.tensor import ActivationScheme
from qcore_backend_cuda.weights import PackedWeight

__all__ = ["linear_op", "scheme_facts"]

_TENSORS = 8
_SCHEME_FACTS = 4


def scheme_facts(scheme: ActivationScheme | None) -> list[int]:
    """Return bits (0: the input stays float), and whether symmetric, per token and static."""
    if scheme is None:
        return [0, 0, 0, 0]
    return [scheme.bits, int(scheme.symmetric), int(scheme.per_token), int(scheme.is_static)]


def _linear(x: Tensor, parts: Sequence[Tensor], facts: Sequence[int], numbers: Sequence[float]) -> Tensor:
    from qcore_backend_cuda import linear

    weight = PackedWeight.from_parts(parts[:_TENSORS], facts[_SCHEME_FACTS:])
    given = linear.check_input(x, weight)
    bits, symmetric, per_token, static = facts[:_SCHEME_FACTS]
    if not bits:
        if x.dtype is torch.float64:
            raise UsageError("this layer takes float16, bfloat16 and float32, not float64")
        return linear.float_rows(given, weight)
    scheme = ActivationScheme(bits, bool(symmetric), bool(per_token), numbers[0])
    return linear.integer_rows(given, weight, scheme, parts[_TENSORS] if static else None)


def _linear_fake(x: Tensor, parts: Sequence[Tensor], facts: Sequence[int], numbers: Sequence[float]) -> Tensor:
    return x.new_empty((*x.shape[:-1], facts[_SCHEME_FACTS]))


_LIBRARY = torch.library.Library("qcore_cuda", "DEF")  # type: ignore[no-untyped-call]
_LIBRARY.define("linear(Tensor x, Tensor[] parts, int[] facts, float[] numbers) -> Tensor")  # type: ignore[no-untyped-call]
_LIBRARY.impl("linear", _linear, "CUDA")  # type: ignore[no-untyped-call]
_LIBRARY.impl("linear", _linear, "CPU")  # type: ignore[no-untyped-call]
torch.library.register_fake("qcore_cuda::linear", _linear_fake, lib=_LIBRARY)

linear_op = torch.ops.qcore_cuda.linear.default
