"""QTensor: a packed low-bit tensor, the only form in which low-bit numbers are stored."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qcore.errors import ModelFileError, QuantizationError
from qcore.tensor.codecs import CODECS
from qcore.tensor.encoded import ENCODINGS, Encoded, codec_of, offset_and_step, stored_range

__all__ = ["Block", "QTensor"]


@dataclass(frozen=True)
class Block:
    """Rows of one width.

    Attributes:
        bits: width of the stored codes.
        codec: name of the byte layout.
        data: uint8 (rows, row_nbytes).
    """

    bits: int
    codec: str
    data: Tensor


@dataclass(frozen=True)
class QTensor:
    """A packed tensor: ``value = (code - zero_point) * scale``.

    Attributes:
        blocks: the codes; rows of one width stand together, narrow widths first.
        scale: float32 (1, 1), (rows, 1) or (rows, groups), in the tensor's own row order.
        shape: the tensor's own shape; row = index along axis 0 (the token, for activations).
        dtype: the tensor's own dtype.
        encoding: how stored codes map to integers, one of :data:`qcore.tensor.encoded.ENCODINGS`.
        cols: codes a row.
        row_order: int32 (rows,), ``row_order[i]`` is the tensor's row that is stored as row i; None: as they come, and
            then widths ascend along the tensor's own rows.
        zero_point: uint8, shaped like ``scale``; None means 0.
        group_size: columns a group of the scale, or None.
    """

    blocks: tuple[Block, ...]
    scale: Tensor
    shape: torch.Size
    dtype: torch.dtype
    encoding: str
    cols: int
    row_order: Tensor | None = None
    zero_point: Tensor | None = None
    group_size: int | None = None

    @classmethod
    def pack(cls, encoded: Encoded, codec: str | Mapping[int, str] | None = None) -> QTensor:
        """Pack ``encoded``.

        Args:
            encoded: codes and scales.
            codec: of all rows, or of each width; what it does not say is stored by
                :func:`qcore.tensor.encoded.codec_of`: codes of three values in ``trit5@1``, all others in ``packn@1``.

        Raises:
            QuantizationError: if codes have more than 8 bits (those of inputs may, which are not stored), a code does
                not fit its width or the codec, or a zero point is no whole number of encoding ``uint``.
        """
        _check_zero_point(encoded)
        order: Tensor | None = None
        moved = False
        blocks: tuple[Block, ...]
        if isinstance(encoded.bits, int) or encoded.bits.numel() == 0:
            width = encoded.bits if isinstance(encoded.bits, int) else 8
            blocks = (_pack_rows(encoded.codes, encoded.encoding, width, codec),)
        else:
            order = torch.argsort(encoded.bits, stable=True)
            moved = not torch.equal(order, torch.arange(len(order), device=order.device))
            widths, counts = torch.unique_consecutive(encoded.bits[order], return_counts=True)
            parts = torch.split(encoded.codes[order], counts.tolist())
            blocks = tuple(
                _pack_rows(part, encoded.encoding, int(bits), codec)
                for part, bits in zip(parts, widths.tolist(), strict=True)
            )
        return cls(
            blocks=blocks,
            scale=encoded.scale.to(torch.float32),
            shape=encoded.shape,
            dtype=encoded.dtype,
            encoding=encoded.encoding,
            cols=encoded.codes.shape[1],
            row_order=order.to(torch.int32) if moved and order is not None else None,
            zero_point=None if encoded.zero_point is None else encoded.zero_point.to(torch.uint8),
            group_size=encoded.group_size,
        )

    def unpack(self) -> Encoded:
        """Return the codes and scales that were packed, exactly."""
        codes = torch.cat([self._unpack_block(block) for block in self.blocks])
        bits: int | Tensor = self.blocks[0].bits if len(self.blocks) == 1 else self.row_bits()
        if self.row_order is not None:
            codes, bits = codes[torch.argsort(self.row_order.long())], self.row_bits()
        zero = None if self.zero_point is None else self.zero_point.to(torch.float32)
        return Encoded(codes, self.scale, self.shape, self.dtype, self.encoding, bits, zero, self.group_size)

    def dequantize(self) -> Tensor:
        """Return the values in the tensor's own shape and dtype."""
        return self.unpack().decode()

    def row_bits(self) -> Tensor:
        """Return the width of each row, int64 (rows,), in the tensor's own row order."""
        device = self.scale.device
        stored = [torch.full((block.data.shape[0],), block.bits, device=device) for block in self.blocks]
        bits = torch.cat(stored)
        return bits if self.row_order is None else bits[torch.argsort(self.row_order.long())]

    @property
    def codecs(self) -> dict[int, str]:
        """The codec of each width."""
        return {block.bits: block.codec for block in self.blocks}

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(block.data.shape[0] for block in self.blocks)

    @property
    def nbytes(self) -> int:
        """Bytes that codes, scales, zero points and row order really take, in memory and on disk alike."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    @property
    def effective_bits(self) -> float:
        """``8 * nbytes`` over the number of elements; 0 for an empty tensor."""
        return 8 * self.nbytes / max(self.rows * self.cols, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that a file stores, by short name."""
        named = {f"codes_{i}": block.data for i, block in enumerate(self.blocks)}
        named["scale"] = self.scale
        optional = {"zero_point": self.zero_point, "row_order": self.row_order}
        return named | {name: tensor for name, tensor in optional.items() if tensor is not None}

    def metadata(self) -> dict[str, Any]:
        """Return what a file must say beside :meth:`tensors`, as plain JSON data."""
        return {
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "encoding": self.encoding,
            "cols": self.cols,
            "group_size": self.group_size,
            "blocks": [{"bits": block.bits, "codec": block.codec} for block in self.blocks],
        }

    @classmethod
    def from_parts(cls, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any]) -> QTensor:
        """Rebuild from :meth:`tensors` and :meth:`metadata`.

        Raises:
            ModelFileError: if a part is missing, or has the wrong shape or dtype, or an unknown codec.
        """
        try:
            blocks = tuple(
                Block(int(block["bits"]), str(block["codec"]), tensors[f"codes_{i}"])
                for i, block in enumerate(metadata["blocks"])
            )
            packed = cls(
                blocks=blocks,
                scale=tensors["scale"],
                shape=torch.Size(metadata["shape"]),
                dtype=getattr(torch, metadata["dtype"]),
                encoding=metadata["encoding"],
                cols=int(metadata["cols"]),
                row_order=tensors.get("row_order"),
                zero_point=tensors.get("zero_point"),
                group_size=None if metadata.get("group_size") is None else int(metadata["group_size"]),
            )
        except (KeyError, AttributeError, TypeError, ValueError, OverflowError, RuntimeError) as error:
            raise ModelFileError(f"a packed tensor lacks or misstates the part {error}") from error
        packed._check()
        return packed

    def to(self, device: torch.device | str) -> QTensor:
        """Return a copy on ``device``."""
        return QTensor.from_parts({name: t.to(device) for name, t in self.tensors().items()}, self.metadata())

    def _unpack_block(self, block: Block) -> Tensor:
        stored = CODECS[block.codec].decode(block.data, block.bits, self.cols)
        step, offset = offset_and_step(self.encoding, block.bits)
        return stored.to(torch.float32) * step + offset

    def _check(self) -> None:
        """Raise ModelFileError unless kernels can trust every part; run whenever parts come from outside."""
        if self.encoding not in ENCODINGS:
            raise ModelFileError(f"unknown encoding {self.encoding!r}", f"this qcore knows {', '.join(ENCODINGS)}")
        if not isinstance(self.dtype, torch.dtype) or not self.dtype.is_floating_point:
            raise ModelFileError(f"{self.dtype} is no float dtype")
        if self.cols < 0 or min(self.shape, default=0) < 0 or (self.group_size is not None and self.group_size < 1):
            raise ModelFileError(f"shape {tuple(self.shape)}, {self.cols} columns, groups of {self.group_size}")
        if not self.blocks:
            raise ModelFileError("a packed tensor without codes")
        for block in self.blocks:
            self._check_block(block)
        if self.rows * self.cols != math.prod(self.shape):
            raise ModelFileError(f"{self.rows} rows of {self.cols} codes do not fill the shape {tuple(self.shape)}")
        self._check_scales()
        order = self.row_order
        if order is not None and (
            order.dtype != torch.int32
            or not order.is_meta
            and not torch.equal(order.long().sort().values, torch.arange(self.rows, device=order.device))
        ):
            raise ModelFileError("the row order is not a permutation of the rows, int32")
        widths = [block.bits for block in self.blocks]
        if order is None and widths != sorted(set(widths)):
            raise ModelFileError(f"rows of {widths} bits without a row order: widths ascend then")

    def _check_block(self, block: Block) -> None:
        if block.codec not in CODECS:
            raise ModelFileError(f"unknown codec {block.codec!r}", f"this qcore knows {', '.join(CODECS)}")
        if not 1 <= block.bits <= 8:
            raise ModelFileError(f"codes of {block.bits} bits, where 1 to 8 are possible")
        wanted = CODECS[block.codec].row_nbytes(self.cols, block.bits)
        if block.data.dtype != torch.uint8 or block.data.dim() != 2 or block.data.shape[1] != wanted:
            raise ModelFileError(
                f"codes have {tuple(block.data.shape)} {block.data.dtype} where (rows, {wanted}) uint8 belong"
            )
        if self.encoding == "symmetric" and block.data.numel() and not block.data.is_meta:
            low, high = stored_range(self.encoding, block.bits)
            stored = CODECS[block.codec].decode(block.data, block.bits, self.cols)
            if not bool(((stored >= low) & (stored <= high)).all()):
                raise ModelFileError(f"a stored code of {block.bits} bits is not within {low} to {high}")

    def _check_scales(self) -> None:
        groups = 1 if self.group_size is None else -(-self.cols // self.group_size)
        for name, part, dtype in (("scale", self.scale, torch.float32), ("zero point", self.zero_point, torch.uint8)):
            if part is None:
                continue
            if part.dtype != dtype or tuple(part.shape) not in {(1, groups), (self.rows, groups)}:
                raise ModelFileError(
                    f"the {name} is {tuple(part.shape)} {part.dtype} where (1 or {self.rows}, {groups}) {dtype} belongs"
                )
        zero = self.zero_point
        if zero is None:
            return
        if self.encoding != "uint":
            raise ModelFileError(f"a zero point with encoding {self.encoding!r}: only 'uint' has one")
        if zero.numel() and not zero.is_meta and int(zero.max()) >> max(block.bits for block in self.blocks):
            raise ModelFileError("a zero point is larger than the largest code")


def _check_zero_point(encoded: Encoded) -> None:
    zero = encoded.zero_point
    if zero is None:
        return
    if encoded.encoding != "uint" or not bool(((zero >= 0) & (zero <= 255) & (zero == zero.round())).all()):
        raise QuantizationError("zero points are whole numbers from 0 to 255, with encoding 'uint'")


def _pack_rows(codes: Tensor, encoding: str, bits: int, codec: str | Mapping[int, str] | None) -> Block:
    if not 1 <= bits <= 8:
        raise QuantizationError(f"codes of {bits} bits are not stored: 1 to 8 are possible")
    given = codec.get(bits) if isinstance(codec, Mapping) else codec
    name = given or codec_of(encoding, bits)
    if name not in CODECS:
        raise QuantizationError(f"unknown codec {name!r}", f"this qcore knows {', '.join(CODECS)}")
    step, offset = offset_and_step(encoding, bits)
    stored = (codes - offset) / step
    low, high = stored_range(encoding, bits)
    top = min(high, CODECS[name].largest(bits))
    if stored.numel() and not bool(((stored >= low) & (stored <= top) & (stored == stored.round())).all()):
        raise QuantizationError(f"a code does not fit {bits} bits of encoding {encoding!r} in {name}")
    return Block(bits, name, CODECS[name].encode(stored.to(torch.uint8), bits))
