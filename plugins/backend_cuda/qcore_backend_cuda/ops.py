"""The kernels as ``torch.library`` ops, through which ``torch.compile`` and ``torch.export`` pass.

``qcore_cuda::linear(x, parts, facts, numbers)``, a packed linear layer on float inputs, and
``qcore_cuda::conv2d(x, parts, facts, numbers, walk)``, an integer convolution. Parts, facts and numbers are the
prepared weight and the scheme of the input, as plain data: see :class:`qcore_backend_cuda.weights.PackedWeight`. Eager
layers do not come this way: an op's dispatch takes longer than a small layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from qcore.errors import UsageError
from qcore.tensor import ActivationScheme
from qcore.tensor.arithmetic import Conv2dShape
from qcore_backend_cuda.weights import PackedWeight

__all__ = ["conv2d_op", "linear_op", "scheme_facts"]

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


def _conv2d(
    x: Tensor, parts: Sequence[Tensor], facts: Sequence[int], numbers: Sequence[float], walk: Sequence[int]
) -> Tensor:
    from qcore_backend_cuda import conv2d

    bits, symmetric, per_token, static, groups, *rest = facts
    each = len(rest) // groups
    weights = tuple(
        PackedWeight.from_parts(parts[_TENSORS * i : _TENSORS * (i + 1)], rest[each * i : each * (i + 1)])
        for i in range(groups)
    )
    scheme = ActivationScheme(bits, bool(symmetric), bool(per_token), numbers[0])
    fixed = parts[_TENSORS * groups] if static else None
    return conv2d.conv2d_rows(x, weights, (walk[0], walk[1]), _conv_shape(walk, groups), scheme, fixed)


def _conv2d_fake(
    x: Tensor, parts: Sequence[Tensor], facts: Sequence[int], numbers: Sequence[float], walk: Sequence[int]
) -> Tensor:
    from qcore_backend_cuda import conv2d

    groups, rows = facts[_SCHEME_FACTS], facts[_SCHEME_FACTS + 1]
    size = conv2d.out_size((x.shape[2], x.shape[3]), (walk[0], walk[1]), _conv_shape(walk, groups))
    return x.new_empty((x.shape[0], *size, groups * rows)).permute(0, 3, 1, 2)


def _conv_shape(walk: Sequence[int], groups: int) -> Conv2dShape:
    stride, padding, dilation = ((walk[i], walk[i + 1]) for i in (2, 4, 6))
    return Conv2dShape(stride, padding, dilation, groups)


_LIBRARY = torch.library.Library("qcore_cuda", "DEF")  # type: ignore[no-untyped-call]
for _schema, _run, _fake in (
    ("linear(Tensor x, Tensor[] parts, int[] facts, float[] numbers) -> Tensor", _linear, _linear_fake),
    ("conv2d(Tensor x, Tensor[] parts, int[] facts, float[] numbers, int[] walk) -> Tensor", _conv2d, _conv2d_fake),
):
    _name = _schema.partition("(")[0]
    _LIBRARY.define(_schema)  # type: ignore[no-untyped-call]
    for _device in ("CUDA", "CPU"):  # the CPU's in the interpreter
        _LIBRARY.impl(_name, _run, _device)  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"qcore_cuda::{_name}", _fake, lib=_LIBRARY)

linear_op = torch.ops.qcore_cuda.linear.default
conv2d_op = torch.ops.qcore_cuda.conv2d.default
