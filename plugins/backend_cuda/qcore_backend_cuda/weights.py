"""PackedWeight: a layer's weight in the layout of the kernels, with what they need beside the codes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from qcore.tensor import Block, QTensor
from qcore.tensor.codecs import CODECS
from qcore.tensor.encoded import offset_and_step
from qcore_backend_cuda.layout import ENCODINGS, choose_lanes, chunk_cols, row_nbytes, to_lanes

__all__ = ["PackedWeight"]

_CODES_AT_ONCE = 1 << 23
"""Codes that are unpacked at a time, eight bytes each: this bounds the memory of packing, whatever the layer."""


@dataclass(frozen=True, eq=False)
class PackedWeight:
    """A weight of the GPU. Rows are in the order in which they are stored: those of one width stand together.

    With the stored number ``t`` of a code (the unsigned code, less 128 at 8 bits), ``code - zero_point`` is
    ``step * t + offset``. In layers of floats ``scale`` includes ``step`` and is to be taken times
    ``code / step - zero``.

    Attributes:
        data: uint8 (nbytes,), the layouts of all blocks, each from a multiple of 16 bytes.
        table: int64 (blocks, 3): rows, first row, first byte of each block.
        scale: float32 (groups, rows).
        zero: float32 (groups, rows), or (1, 1) without zero points.
        offset: int32 (rows,), of integer layers, else (1,).
        total: int32 (rows,), the sum of ``code - zero_point`` of each row of integer layers, else (1,).
        bias: float32 (rows,), or (1,) without one.
        order: int32 (rows,), the output of each stored row, or (1,) where they are in order.
        rows, cols: the weight's shape.
        lanes: of the layout.
        widths: bits of each block.
        counts: rows of each block.
        encoding: of the codes.
        group_size: columns a scale; 0: all.
        integer: whether the layer computes in integers.
        has_zero, has_bias, has_order: whether there are such.
    """

    data: Tensor
    table: Tensor
    scale: Tensor
    zero: Tensor
    offset: Tensor
    total: Tensor
    bias: Tensor
    order: Tensor
    rows: int
    cols: int
    lanes: int
    widths: tuple[int, ...]
    counts: tuple[int, ...]
    encoding: str
    group_size: int
    integer: bool
    has_zero: bool
    has_bias: bool
    has_order: bool

    @classmethod
    def pack(cls, weight: QTensor, bias: Tensor | None, *, integer: bool) -> PackedWeight:
        """Return ``weight`` in this layout, on its own device; no more than some rows are unpacked at a time.

        The kernels have one step for all widths: codes of 1 bit that step by 2 beside others take 2 bits here.

        Args:
            weight: (rows, cols) codes.
            bias: (rows,) or None.
            integer: whether the layer computes in integers.
        """
        weight = _of_one_step(weight)
        device, rows, cols = weight.scale.device, weight.rows, weight.cols
        widths = tuple(block.bits for block in weight.blocks if len(block.data))
        counts = tuple(len(block.data) for block in weight.blocks if len(block.data))
        group = weight.group_size if weight.scale.shape[1] > 1 else None
        lanes = choose_lanes(cols, widths, group)
        step = _step(weight.encoding)
        order = weight.row_order
        scale, zero = weight.scale, weight.zero_point
        scale = _stored(scale, rows, order) if integer else _stored(scale * step, rows, order)
        zeros = None if zero is None else _stored(zero.float(), rows, order)
        data, table = _blocks(weight, lanes)
        none = torch.zeros(1, dtype=torch.int32, device=device)
        offset = total = none
        if integer:
            offset = _offsets(weight, zeros)
            total = _totals(weight, offset, step)
        given = none.float() if bias is None else _stored(bias.detach().float().reshape(-1, 1), rows, order)[0]
        return cls(
            data=data,
            table=table,
            scale=scale,
            zero=none.float().reshape(1, 1) if zeros is None else zeros,
            offset=offset,
            total=total,
            bias=given,
            order=none if order is None else order,
            rows=rows,
            cols=cols,
            lanes=lanes,
            widths=widths,
            counts=counts,
            encoding=weight.encoding,
            group_size=group or 0,
            integer=integer,
            has_zero=zeros is not None,
            has_bias=bias is not None,
            has_order=order is not None,
        )

    @property
    def step(self) -> int:
        """What a code grows by when its stored number grows by one."""
        return _step(self.encoding)

    @property
    def stride(self) -> int:
        """Columns of a row of int8 inputs: those that the layout of any width reads."""
        return max(-(-self.cols // chunk_cols(bits, self.lanes)) * chunk_cols(bits, self.lanes) for bits in self.widths)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors())

    def blocks(self) -> list[tuple[int, int, int, int]]:
        """Return (bits, rows, first row, first byte) of each block."""
        found, first, begin = [], 0, 0
        for bits, count in zip(self.widths, self.counts, strict=True):
            found.append((bits, count, first, begin))
            first, begin = first + count, begin + count * row_nbytes(self.cols, bits, self.lanes)
        return found

    def float_offsets(self) -> tuple[float, ...]:
        """Return, for each block, what makes ``code / step`` of an unsigned code."""
        return tuple(offset_and_step(self.encoding, bits)[1] / self.step for bits in self.widths)

    def tensors(self) -> list[Tensor]:
        """Return the tensors, in the order of the attributes."""
        return [getattr(self, field.name) for field in fields(self)[:8]]

    def facts(self) -> list[int]:
        """Return all else as whole numbers; with :meth:`tensors` it is the whole weight."""
        flags = (self.integer, self.has_zero, self.has_bias, self.has_order)
        encoding = ENCODINGS.index(self.encoding)
        return [
            self.rows,
            self.cols,
            self.lanes,
            encoding,
            self.group_size,
            *map(int, flags),
            *self.widths,
            *self.counts,
        ]

    @classmethod
    def from_parts(cls, tensors: Sequence[Tensor], facts: Sequence[int]) -> PackedWeight:
        """Return the weight of :meth:`tensors` and :meth:`facts`."""
        rows, cols, lanes, encoding, group_size, *rest = facts
        flags, blocks = [bool(flag) for flag in rest[:4]], rest[4:]
        widths, counts = tuple(blocks[: len(blocks) // 2]), tuple(blocks[len(blocks) // 2 :])
        values: tuple[Any, ...] = (
            *tensors,
            rows,
            cols,
            lanes,
            widths,
            counts,
            ENCODINGS[encoding],
            group_size,
            *flags,
        )
        names = [field.name for field in fields(cls)]
        return cls(**dict(zip(names, values, strict=True)))


def _step(encoding: str) -> int:
    return offset_and_step(encoding, 2)[0]


def _of_one_step(weight: QTensor) -> QTensor:
    """Return ``weight`` with its codes of 1 bit as such of 2 bits, where they step by 2 and other widths by 1."""
    if weight.encoding != "symmetric":
        return weight
    if {block.bits for block in weight.blocks if len(block.data)} <= {1}:
        return replace(weight, encoding="odd")  # at 1 bit they are the same
    blocks = (_at_two_bits(block, weight.cols) if block.bits == 1 else block for block in weight.blocks)
    return replace(weight, blocks=tuple(blocks))


def _at_two_bits(block: Block, cols: int) -> Block:
    codec = CODECS["packn@1"]
    at_once = max(1, _CODES_AT_ONCE // max(cols, 1))
    some = torch.split(block.data, at_once)
    parts = [codec.encode(2 * CODECS[block.codec].decode(data, 1, cols), 2) for data in some]
    return Block(2, codec.name, torch.cat(parts))


def _stored(per_row: Tensor, rows: int, order: Tensor | None) -> Tensor:
    """Return (1 or rows, groups) as (groups, rows), rows as they are stored."""
    every = per_row.expand(rows, -1)
    return (every if order is None else every[order.long()]).t().contiguous()


def _chunks(weight: QTensor) -> Iterator[tuple[int, int, Tensor]]:
    """Yield (block, first row in it, unsigned codes uint8 (some rows, cols))."""
    at_once = max(1, _CODES_AT_ONCE // max(weight.cols, 1))
    for i, block in enumerate(block for block in weight.blocks if len(block.data)):
        for start in range(0, len(block.data), at_once):
            yield i, start, CODECS[block.codec].decode(block.data[start : start + at_once], block.bits, weight.cols)


def _blocks(weight: QTensor, lanes: int) -> tuple[Tensor, Tensor]:
    blocks = [block for block in weight.blocks if len(block.data)]
    sizes = [row_nbytes(weight.cols, block.bits, lanes) for block in blocks]
    rows = [len(block.data) for block in blocks]
    begins = [sum(n * size for n, size in zip(rows[:i], sizes[:i], strict=True)) for i in range(len(blocks) + 1)]
    data = torch.empty(begins[-1], dtype=torch.uint8, device=weight.scale.device)
    for i, start, codes in _chunks(weight):
        at = begins[i] + start * sizes[i]
        data[at : at + len(codes) * sizes[i]] = to_lanes(codes, blocks[i].bits, lanes).flatten()
    table = [[count, sum(rows[:i]), begins[i]] for i, count in enumerate(rows)]
    return data, torch.tensor(table, dtype=torch.int64, device=data.device)


def _offsets(weight: QTensor, zeros: Tensor | None) -> Tensor:
    parts = []
    for block in weight.blocks:
        step, offset = offset_and_step(weight.encoding, block.bits)
        moved = offset + step * (128 if block.bits == 8 else 0)
        parts.append(torch.full((len(block.data),), moved, dtype=torch.int32, device=weight.scale.device))
    offsets = torch.cat(parts)
    return offsets if zeros is None else offsets - zeros[0].to(torch.int32)


def _totals(weight: QTensor, offset: Tensor, step: int) -> Tensor:
    sums = []
    blocks = [block for block in weight.blocks if len(block.data)]
    for i, _, codes in _chunks(weight):
        less = 128 if blocks[i].bits == 8 else 0
        sums.append(codes.sum(dim=1, dtype=torch.int32) - less * weight.cols)
    total: Tensor = torch.cat(sums) * step + weight.cols * offset
    return total.to(torch.int32)
