"""Several weights as one, so that one launch runs them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from qcore_backend_cuda.layout import row_nbytes, to_lanes
from qcore_backend_cuda.run import decode
from qcore_backend_cuda.weights import PackedWeight

__all__ = ["stack"]


def stack(weights: Sequence[PackedWeight]) -> PackedWeight | None:
    """Return integer layers of one shape as one layer, outputs one after the other; None: they do not go together.

    They may have different widths and encodings, but their codes must step alike.
    """
    first = weights[0]
    shape = (first.rows, first.cols, first.step)
    if any(not weight.integer or (weight.rows, weight.cols, weight.step) != shape for weight in weights):
        return None
    lanes = min(weight.lanes for weight in weights)
    even = [_with_lanes(weight, lanes) for weight in weights]
    device, rows = first.data.device, first.rows
    ordered, biased = any(weight.has_order for weight in even), any(weight.has_bias for weight in even)
    whole = torch.arange(rows, dtype=torch.int32, device=device)
    order = [(weight.order if weight.has_order else whole) + i * rows for i, weight in enumerate(even)]
    bias = [weight.bias if weight.has_bias else weight.scale.new_zeros(rows) for weight in even]
    stacked = replace(
        first,
        data=torch.cat([weight.data for weight in even]),
        table=first.table,
        scale=torch.cat([weight.scale for weight in even], dim=1),
        offset=torch.cat([weight.offset for weight in even]),
        total=torch.cat([weight.total for weight in even]),
        bias=torch.cat(bias) if biased else first.bias,
        order=torch.cat(order) if ordered else first.order,
        rows=rows * len(even),
        lanes=lanes,
        widths=tuple(bits for weight in even for bits in weight.widths),
        counts=tuple(count for weight in even for count in weight.counts),
        has_zero=False,
        has_bias=biased,
        has_order=ordered,
    )
    table = [[count, start, begin] for _, count, start, begin in stacked.blocks()]
    return replace(stacked, table=torch.tensor(table, dtype=torch.int64, device=device))


def _with_lanes(weight: PackedWeight, lanes: int) -> PackedWeight:
    """Return the same weight in a layout of fewer lanes."""
    if weight.lanes == lanes:
        return weight
    numbers, parts = decode(weight, torch.int8), []
    for bits, count, start, _ in weight.blocks():
        codes = numbers[start : start + count, : weight.cols].view(torch.uint8)
        parts.append(_laid_out(codes, bits, lanes))
    moved = replace(weight, data=torch.cat(parts), lanes=lanes)
    table = [[count, start, begin] for _, count, start, begin in moved.blocks()]
    return replace(moved, table=torch.tensor(table, dtype=torch.int64, device=weight.data.device))


def _laid_out(numbers: Tensor, bits: int, lanes: int) -> Tensor:
    data = to_lanes(numbers ^ 128 if bits == 8 else numbers, bits, lanes)
    assert data.shape[1] == row_nbytes(numbers.shape[1], bits, lanes)
    return data.flatten()
