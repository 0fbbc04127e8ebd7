"""The update rule: from a gradient to new codes, a few rows at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qcore.errors import QuantizationError
from qcore_true4bit.resident.codes import LARGEST, pack_codes, round_stochastic, unpack_codes
from qcore_true4bit.resident.moments import Squares

if TYPE_CHECKING:
    from qcore_true4bit.resident.layers import ResidentLayer

__all__ = ["RESIDUAL_STEPS", "chunks_of", "update"]

RESIDUAL_STEPS = 256
"""Residuals count in 1/256 of a code."""

_CHUNK, _CPU_CHUNK = 1 << 20, 1 << 15
"""Elements that are updated at once, so that float temporaries stay small: on a CPU as many as stay in a core's cache
and as torch does not split among threads."""


def chunks_of(matrix: Tensor) -> list[slice]:
    """Return slices of whole rows of ``matrix`` (rows, cols): of bounded size, or of one row."""
    rows, cols = matrix.shape
    height = max(1, (_CPU_CHUNK if matrix.device.type == "cpu" else _CHUNK) // cols)
    return [slice(start, min(start + height, rows)) for start in range(0, rows, height)]


def update(layer: ResidentLayer, gradient: Tensor) -> None:
    """Change the codes of ``layer`` by the gradient of its weight, float32 (rows, cols), as one step of Adam would.

    With code ``q``, residual ``e`` (0 if there is none), scale ``s`` and direction ``u``
    (:class:`~qcore_true4bit.resident.moments.Moments`), in units of the row's scale::

        t = (q + e / 256) (1 - lr weight_decay) - lr u                   # unit "code"; "weight": lr u / s
        t = (a / s) tanh(t s / a)                                        # soft_clip
        q = clamp(stochastic(t), -7, 7)                                  # without residual
        q = clamp(round(t), -7, 7),  e = stochastic(256 (t - q))         # with it, e in -128..127

    Raises:
        QuantizationError: the gradient holds NaN or infinity, or its squares overflow; nothing has changed then.
    """
    chunks = chunks_of(gradient)
    squares = Squares(gradient, chunks)
    if not squares.norm < float("inf"):
        raise QuantizationError(
            f"the gradient of {layer.tensor_name} holds NaN, infinity, or what float32 cannot square",
            "lower the learning rate, or set 'clip'",
        )
    clip = layer.config.clip
    factor = 1.0 if clip is None else min(1.0, clip / max(squares.norm, 1e-30))
    layer.moments.begin(squares, factor)
    generator, scale = layer.own_generator(), layer.scale.unsqueeze(1)
    for rows in chunks:
        direction = layer.moments.direction(rows, gradient[rows], factor, generator)
        target = _target(layer, rows, direction, scale[rows])
        if layer.residual is None:
            codes = round_stochastic(target, generator).clamp_(-LARGEST, LARGEST)
        else:
            codes = target.round().clamp_(-LARGEST, LARGEST)
            rest = round_stochastic(target.sub_(codes).mul_(RESIDUAL_STEPS), generator)
            layer.residual[rows] = rest.clamp_(-RESIDUAL_STEPS // 2, RESIDUAL_STEPS // 2 - 1).to(torch.int8)
        layer.codes[rows] = pack_codes(codes)


def _target(layer: ResidentLayer, rows: slice, direction: Tensor, scale: Tensor) -> Tensor:
    """Return the ``t`` of ``rows`` in the memory of ``direction``, which is lost."""
    target = unpack_codes(layer.codes[rows], layer.cols)
    if layer.residual is not None:
        target = target.add_(layer.residual[rows].to(torch.float32).mul_(1 / RESIDUAL_STEPS))
    direction.mul_(layer.lr if layer.config.unit == "code" else layer.lr / scale)
    target = torch.sub(target.mul_(1 - layer.lr * layer.weight_decay), direction, out=direction)
    bound = layer.config.soft_clip
    return target if bound is None else target.mul_(scale / bound).tanh_().mul_(bound / scale)
